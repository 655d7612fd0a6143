"""The orchestrator's HTTP server: Starlette routes on uvicorn, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from broker.address import bracketed
from broker.own_address import own_address
from broker.security import is_loopback
from orchestrator.errors import AddressInUse
from orchestrator.service.http_connections import LimitedListener
from orchestrator.service.http_limits import HttpLimits
from schemas.closing import Closing
from schemas.system_limits import describe

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from orchestrator.service.http_requests import Refusal

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_START_S = 10.0
_STOP_TIMEOUT_S = 1.5
"""uvicorn gives open connections a second."""


class HttpServer(Closing):
    """Listens from construction on, answers from ``start`` on. ``port`` is the real one where 0 was asked for."""

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        *,
        host: str,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        limits: HttpLimits | None = None,
        refuse: Refusal | None = None,
    ) -> None:
        """Listen on an address.

        Args:
            tls: with it the server speaks https only. See ``load_certificate`` for another certificate later on.
            refuse: what is said of requests that no route gets to see; None: no more than their status.

        Raises:
            AddressInUse: the port is taken, or the host is not one of this machine.
        """
        from orchestrator.service.uvicorn_server import BACKLOG, UvicornServer

        limits = limits or HttpLimits()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise AddressInUse(f"cannot serve on {host} port {port}: {error.strerror}; choose another port") from error
        self._socket = LimitedListener(listening, limits.most_connections(), limits.connections_per_address)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self._tls = tls
        if tls:
            tls.minimum_version = max(tls.minimum_version, ssl.TLSVersion.TLSv1_2)
            tls.options |= ssl.OP_NO_RENEGOTIATION  # a client would make the server compute at no cost of its own
        self._server = UvicornServer(routes, limits, tls, refuse)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_up = threading.Event()
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_up.set()
        self._loop.set_exception_handler(self._failed)
        await self._server.serve(sockets=[self._socket])

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log, once, that connections wait: asyncio would write a traceback for each, hundreds a second."""
        error = context.get("exception")
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
        elif str(error) not in self._said:
            self._said.add(str(error))
            _log.warning("connections have to wait: %s (not logged again)", describe(error))

    def call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the server's event loop, once it was started, and return what comes of it.

        Raises:
            RuntimeError: the server has not been started.
        """
        self._is_up.wait(_START_S)
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the server has not been started")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def start(self) -> None:
        """Answer requests; those that came since construction first."""
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._socket.held

    def load_certificate(self, certificate: Path, key: Path) -> None:
        """Give new connections another certificate; those that are open keep theirs.

        ``tls.load_cert_chain`` does the same. Here it happens between two handshakes: OpenSSL does not lock a context,
        and another thread could change it in the middle of one.

        Raises:
            OSError, ssl.SSLError: the files can't be read, or don't belong together.
        """
        assert self._tls is not None, "the server has no TLS"
        tls = self._tls
        # A pair that does not match would leave the context without a key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)

        async def load() -> None:
            tls.load_cert_chain(certificate, key)

        if self._loop:
            asyncio.run_coroutine_threadsafe(load(), self._loop).result()
        else:
            tls.load_cert_chain(certificate, key)

    def close(self) -> None:
        """Stop answering. Idempotent."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self


def reachable_urls(host: str, port: int, towards: tuple[str, int], *, tls: bool = False) -> tuple[str, ...]:
    """``http://host:port``, with TLS ``https://host:port``, as other machines may know this server, best first.

    Args:
        towards: a host and port on the network where the others are (the broker's).
    """
    wildcards = ("0.0.0.0", "::")
    if host not in wildcards:
        return (_url(host, port, tls),)
    found = [own_address(*towards), *interface_addresses()]
    addresses = [address for address in dict.fromkeys(found) if address and not is_loopback(address)]
    return tuple(_url(address, port, tls) for address in (*addresses, "127.0.0.1"))


def interface_addresses() -> list[str]:
    """IPv4 addresses of this machine, asked of the system; empty where it keeps them to itself, as Android does."""
    import psutil

    try:
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        every = psutil.net_if_addrs().items()
    except OSError:
        return []
    return [one.address for name, known in every if name in up for one in known if one.family == socket.AF_INET]


def _url(host: str, port: int, tls: bool) -> str:
    return f"{'https' if tls else 'http'}://{bracketed(host)}:{port}"
