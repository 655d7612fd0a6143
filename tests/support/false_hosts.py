"""Servers that pose as a fleet's: what they are told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fleet_world import HOST


@dataclass
class FalseHost:
    """Its port, and all that it was told, inside TLS where it speaks that."""

    port: int
    heard: list[bytes] = field(default_factory=list)
    tried: int = 0
    """Connections."""

    @property
    def all(self) -> bytes:
        """Everything."""
        return b"".join(self.heard)


def tls_of(server_file: Path) -> ssl.SSLContext:
    """As a server with this key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    return context


@contextmanager
def false_host(tls: ssl.SSLContext | None, answer: bytes) -> Iterator[FalseHost]:
    """Gives this answer to whatever it is told; without ``tls`` in the clear."""
    with socket.create_server((HOST, 0)) as listening:
        host = FalseHost(listening.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                host.tried += 1
                accepted.settimeout(5)
                with accepted, contextlib.suppress(OSError):
                    connection = tls.wrap_socket(accepted, server_side=True) if tls else accepted
                    with connection:
                        host.heard.append(connection.recv(65536))
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield host
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
