"""How many connections a server holds, in all and for each address."""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

from broker.security import peer_of


class LimitedListener(socket.socket):
    """A listening socket that closes at once what is beyond the limits.

    uvicorn hears of a connection only after its TLS handshake, and its ``limit_concurrency`` counts without regard to
    addresses and answers 503 to complete requests only: connections that never come so far would be free.
    """

    def __init__(self, listening: socket.socket, most: int, most_per_peer: int) -> None:
        super().__init__(fileno=listening.detach())
        self._most = most
        self._most_per_peer = most_per_peer
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """How many connections are open."""
        return self._held.total()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            ConnectionAbortedError: there was one too many. The event loop goes on, as when a client gave up early.
        """
        accepted, address = super().accept()
        peer = peer_of(address[0])
        if self.held >= self._most or self._held[peer] >= self._most_per_peer:
            accepted.close()
            raise ConnectionAbortedError(f"{peer} has too many connections")
        self._held[peer] += 1
        return _CountedConnection(accepted, peer, self._held), address


class _CountedConnection(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, accepted: socket.socket, peer: str, held: Counter[str]) -> None:
        super().__init__(fileno=accepted.detach())
        self._peer = peer
        self._among = held

    def close(self) -> None:
        """Close, and make room for another one. Idempotent."""
        if self.fileno() != -1:
            self._among[self._peer] -= 1
            if not self._among[self._peer]:
                del self._among[self._peer]
        super().close()
