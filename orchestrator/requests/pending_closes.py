"""Ended requests whose end some node has not confirmed (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.effects import Effect, command
from schemas.messages import CloseRequest, RequestClosed

_MOST = 256
"""The oldest are forgotten."""


class PendingCloses:
    """Who is still to confirm the end of which request."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[str]] = {}

    def close(self, request: str, nodes: Iterable[str]) -> list[Effect]:
        """Tell nodes, each once, that a request has ended."""
        told = dict.fromkeys(nodes)
        self._waiting[request] = set(told)
        while len(self._waiting) > _MOST:
            del self._waiting[next(iter(self._waiting))]
        return [command(node, CloseRequest(request=request)) for node in told]

    def confirm(self, closed: RequestClosed) -> None:
        """A node has freed what the request held."""
        waiting = self._waiting.get(closed.request, set())
        waiting.discard(closed.timing.node)
        if not waiting:
            self._waiting.pop(closed.request, None)

    def again(self, node: str) -> list[Effect]:
        """Tell a node that is back of the ends that it has not confirmed: a broker keeps nothing for who is away."""
        missed = [request for request, nodes in self._waiting.items() if node in nodes]
        return [command(node, CloseRequest(request=request)) for request in missed]
