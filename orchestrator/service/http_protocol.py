"""uvicorn's HTTP/1.1 on one connection, with time limits for clients that send or take too slowly."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.service.http_limits import HttpLimits


class LimitedProtocol(H11Protocol):
    """uvicorn's own protocol, which limits only the pause between requests.

    It would wait for ever for the rest of a head or a body, and for a client that does not read: even its timeout
    between requests, and the end of a connection, wait until all that is written has been taken.
    """

    def __init__(self, limits: HttpLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._incomplete: asyncio.TimerHandle | None = None
        self._received = 0
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for long."""
        super().connection_made(transport)
        # Writing is paused whenever something is left, so that no rest is overlooked. asyncio's TLS would take 0 for
        # always; a byte that is left there is in its own time limit for the end of a connection.
        transport.set_write_buffer_limits(high=1 if self.scheme == "https" else 0, low=0)
        self._incomplete = self.loop.call_later(self._limits.request_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take some of a request; one that is too long or takes too long ends the connection."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._received = 0
            _cancel(self._incomplete)
            self._incomplete = None
            return
        self._received += len(data)
        if self._received > self._limits.head_bytes + self._limits.body_bytes:
            self.transport.abort()
        elif self._incomplete is None:
            self._incomplete = self.loop.call_later(self._limits.request_s, self.transport.abort)

    def pause_writing(self) -> None:
        """The client has not taken all that was written."""
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        """The client has taken all that was written."""
        _cancel(self._stalled)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        _cancel(self._incomplete)
        _cancel(self._stalled)
        super().connection_lost(exc)

    def _watch_taking(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self._limits.stalled_s, self._end_unless_taken, left)

    def _end_unless_taken(self, before: int) -> None:
        if self.scheme == "https" and self.transport.is_closing():
            return  # asyncio limits the end of a TLS connection, and has no sizes to tell any more
        if self.transport.get_write_buffer_size() < before:
            self._watch_taking()
        else:
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
