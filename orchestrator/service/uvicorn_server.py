"""uvicorn's server with this project's limits. Importing this imports uvicorn and Starlette."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from orchestrator.service.http_limits import HttpLimits
from orchestrator.service.http_protocol import LimitedProtocol
from orchestrator.service.http_requests import Refusal, RequestFilter, refuse_without_words

BACKLOG = 1024
"""A node's connection waits among those of a flood, and would be tried again after seconds where it found no room."""
STOP_TIMEOUT_S = 1


class UvicornServer(uvicorn.Server):
    """Serves routes on sockets that listen already."""

    def __init__(
        self, routes: Sequence[BaseRoute], limits: HttpLimits, tls: ssl.SSLContext | None, refuse: Refusal | None = None
    ) -> None:
        """``refuse``: what is said to who asks too much; None: no words."""
        request_filter = Middleware(RequestFilter, limits, refuse or refuse_without_words)
        app = Starlette(routes=list(routes), middleware=[request_filter])
        app.router.redirect_slashes = False  # the address would be taken from the request's Host
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_config=None,
            log_level="error",  # warnings are about each wrong request
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # anybody on this machine could pretend to be at another address
            timeout_keep_alive=limits.idle_s,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
            h11_max_incomplete_event_size=limits.head_bytes,
        )
        super().__init__(config)
        self._limits = limits
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, with what it can't be told.

        It passes asyncio no time limits for TLS (60 s for handshakes, and nothing is known of them before), and takes
        a ready context only by way of a factory that version 0.30 has not.
        """
        await self.lifespan.startup()
        protocol = functools.partial(
            LimitedProtocol,
            self._limits,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                protocol,
                sock=listening,
                backlog=BACKLOG,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_s if self._tls else None,
                ssl_shutdown_timeout=self._limits.stalled_s if self._tls else None,
            )
            for listening in sockets or ()
        ]
        self.started = True
