"""TLS over a connected socket for two threads, one that reads and one that writes, which `ssl.SSLSocket` is not for."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

_READ_BYTES = 65_536
_Result = TypeVar("_Result")


class Stream(Protocol):
    """What `socket.socket` and `TlsStream` have in common."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


class TlsStream:
    """One side of a TLS connection. The handshake is made by who reads; who writes waits for it.

    Whatever is wrong with it is an OSError, as `ssl.SSLError` is. `shutdown` and `close` end it as they end the
    connection beneath: nobody is told that no more comes.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """``server_name``: of the server that it is a client of; None: it is the server."""
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_name is None, server_hostname=server_name)
        self._turn = threading.Lock()
        """Of who uses the objects of TLS; nobody waits while he has it."""
        self._sending = threading.Lock()
        """Records have to go out in the order in which they were made."""
        self._changed = threading.Condition()
        self._ready = self._over = False

    def recv(self, size: int, /) -> bytes:
        """Some bytes; none, or an error, at the end."""
        if not self._ready:
            self._advance(self._tls.do_handshake)
            with self._changed:
                self._ready = True
                self._changed.notify_all()
        return self._advance(lambda: self._tls.read(size))

    def sendall(self, data: bytes, /) -> None:
        """Send all of it, as soon as there was a handshake."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._over)
            if self._over:
                raise BrokenPipeError
        with self._sending:
            with self._turn:
                self._tls.write(data)
                records = self._out.read()
            self._sock.sendall(records)

    def shutdown(self, how: int, /) -> None:
        """End the connection: threads that wait in `recv` and `sendall` go on."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _advance(self, step: Callable[[], _Result]) -> _Result:
        """Take a step, with what the other side says meanwhile."""
        while True:
            done: list[_Result] = []
            with self._turn:
                with suppress(ssl.SSLWantReadError):
                    done.append(step())
                has_records = self._out.pending > 0
            if has_records:
                with self._sending:
                    with self._turn:
                        records = self._out.read()
                    self._sock.sendall(records)
            if done:
                return done[0]
            data = self._sock.recv(_READ_BYTES)
            with self._turn:
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
