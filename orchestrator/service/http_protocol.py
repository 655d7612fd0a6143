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
        self._is_streamed = False
        """Is a body under way that its route writes to a disk as it comes?"""
        self._is_left = False
        """Does a body go on whose request is answered?"""
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
        """Take some of a request; one that takes too long, or is far too long, ends the connection."""
        super().data_received(data)
        state = self.conn.their_state
        if state not in (h11.IDLE, h11.SEND_BODY):
            self._complete()
            return
        if self._is_left and state is h11.IDLE:
            self._complete()
        self._received += len(data)
        if state is h11.SEND_BODY and not self._is_streamed and self.scope["path"] in self._limits.streamed:
            self._is_streamed = True
            _cancel(self._incomplete)
            self._watch_sending()
        most_bytes = self._limits.head_bytes + self._limits.body_bytes
        if state is h11.SEND_BODY:  # one that is too long is refused with words, and some more of it thrown away
            most_bytes += self._limits.linger_bytes
        if self._received > most_bytes and not self._is_streamed:
            self.transport.abort()
        elif self._incomplete is None:
            self._incomplete = self.loop.call_later(self._limits.request_s, self.transport.abort)

    def on_response_complete(self) -> None:
        """Let a client that goes on sending come to the answer."""
        self._is_left = self.conn.their_state is h11.SEND_BODY
        super().on_response_complete()
        if self._is_left:
            _cancel(self._incomplete)
            self._incomplete = self.loop.call_later(self._limits.linger_s, self.transport.abort)

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

    def _complete(self) -> None:
        """A request is here whole."""
        self._received = 0
        self._is_streamed = self._is_left = False
        _cancel(self._incomplete)
        self._incomplete = None

    def _watch_sending(self) -> None:
        self._incomplete = self.loop.call_later(self._limits.stalled_s, self._end_unless_sent, self._received)

    def _end_unless_sent(self, before: int) -> None:
        if self._received > before:
            self._watch_sending()
        else:
            self.transport.abort()

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
