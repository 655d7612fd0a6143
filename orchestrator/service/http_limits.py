"""What a client of the orchestrator's HTTP server may take of it: connections, time and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.system_limits import files_allowed


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Limits of one server. Nodes stay far below them: they send a head at once and read as fast as they can."""

    connections: int = 512
    connections_per_address: int = 64
    handshake_s: float = 10
    """From the connection to the end of the TLS handshake."""
    request_s: float = 10
    """From the connection, or a request's first byte, to the end of its head and body."""
    idle_s: int = 5
    """Between two requests on one connection."""
    stalled_s: float = 60
    """While a client takes nothing of an answer."""
    head_bytes: int = 16 << 10
    headers: int = 64
    body_bytes: int = 64 << 10
    streamed: Mapping[str, int] = field(default_factory=dict)
    """By path: the most bytes of a body that its route writes to a disk as it comes. ``stalled_s`` is then how long
    nothing may come; ``request_s`` and ``body_bytes`` are for all others, which are read into memory."""
    linger_s: float = 5
    """A body goes on for so long after its answer, and is thrown away: its sender reads only behind it."""
    linger_bytes: int = 16 << 20
    """The most of a body in memory that is thrown away."""

    def most_body_bytes(self, path: str) -> int:
        """The most bytes of a body that is sent to a path."""
        return self.streamed.get(path, self.body_bytes)

    def most_connections(self) -> int:
        """How many connections are held: fewer where the process may open few files, of which each can take two."""
        return max(1, min(self.connections, files_allowed() // 3))
