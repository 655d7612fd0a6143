"""A TCP relay on loopback that passes bytes on as they are, TLS or not, and knows what its clients cost on the wire."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from broker.wire_bytes import wire_bytes

_PIECE_BYTES = 1 << 16


class ByteRelay:
    """Listens on a free port of 127.0.0.1 in front of ``target``; a context manager. Linux counts the bytes."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._before = (0, 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="relay", daemon=True)

    def wire_bytes(self) -> tuple[int, int]:
        """Bytes that clients have sent and received by now, with all headers and empty acknowledgements."""
        with self._lock:
            found = [self._before, *(_counted(sock) for sock in self._open)]
        return sum(sent for sent, _ in found), sum(received for _, received in found)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
        back.start()
        _pass_on(client, server)
        back.join()
        with self._lock:
            self._open.discard(client)
            sent, received = _counted(client)
            self._before = self._before[0] + sent, self._before[1] + received
        client.close()
        server.close()


def _counted(sock: socket.socket) -> tuple[int, int]:
    """What a client has sent and received, by the socket at the other end."""
    sent, received = wire_bytes(sock) or (0, 0)
    return received, sent


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE_BYTES):
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
