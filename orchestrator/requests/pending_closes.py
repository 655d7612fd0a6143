"""Ended requests whose end some node has not confirmed (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.effects import Effect, command
from schemas.back_off import back_off_s
from schemas.messages import CloseRequest, RequestClosed

_MOST = 256
"""The oldest are forgotten."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 60.0


@dataclass
class _Close:
    nodes: set[str]
    """Those that have not confirmed it."""
    due_s: float
    times_told: int = 1


class PendingCloses:
    """Who is still to confirm the end of which request: a slot that is not freed is lost to everybody."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Close] = {}

    def close(self, request: str, nodes: Iterable[str], now_s: float) -> list[Effect]:
        """Tell nodes, each once, that a request has ended."""
        told = dict.fromkeys(nodes)
        self._waiting[request] = _Close(set(told), now_s + _FIRST_WAIT_S)
        while len(self._waiting) > _MOST:
            del self._waiting[next(iter(self._waiting))]
        return [command(node, CloseRequest(request=request)) for node in told]

    def reopened(self, request: str) -> None:
        """Tell nobody any more that a request has ended: it goes on."""
        self._waiting.pop(request, None)

    def confirm(self, closed: RequestClosed) -> None:
        """A node has freed what the request held."""
        waiting = self._waiting.get(closed.request)
        if waiting is not None:
            waiting.nodes.discard(closed.timing.node)
            if not waiting.nodes:
                del self._waiting[closed.request]

    def again(self, node: str) -> list[Effect]:
        """Tell a node that is back of the ends that it has not confirmed: a broker keeps nothing for who is away."""
        missed = [request for request, waiting in self._waiting.items() if node in waiting.nodes]
        return [command(node, CloseRequest(request=request)) for request in missed]

    def next_deadline_s(self) -> float:
        """When ``repeat`` next has something to do."""
        return min((waiting.due_s for waiting in self._waiting.values()), default=math.inf)

    def repeat(self, now_s: float) -> list[Effect]:
        """Tell nodes again what they have not confirmed for a while: the message, or theirs, may be lost."""
        effects: list[Effect] = []
        for request, waiting in self._waiting.items():
            if now_s >= waiting.due_s:
                waiting.due_s = now_s + back_off_s(_FIRST_WAIT_S, waiting.times_told, _LONGEST_WAIT_S)
                waiting.times_told += 1
                effects += [command(node, CloseRequest(request=request)) for node in sorted(waiting.nodes)]
        return effects
