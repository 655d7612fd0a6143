"""Nodes that failed to load a segment are left out of plans for a while (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MAX_GROWTH = 10


@dataclass
class _Exclusion:
    incarnation: int
    reason: str
    times: int
    until_s: float


class Exclusions:
    """By node; another start of the node is given another chance at once."""

    def __init__(self, *, base_s: float) -> None:
        self._base_s = base_s
        self._of: dict[str, _Exclusion] = {}

    def add(self, node: str, incarnation: int, reason: str, now_s: float) -> None:
        """Leave the node out, longer with each time."""
        known = self._of.get(node)
        times = known.times + 1 if known and known.incarnation == incarnation else 1
        wait_s = self._base_s * min(2 ** (times - 1), _MAX_GROWTH)
        self._of[node] = _Exclusion(incarnation, reason, times, now_s + wait_s)

    def excludes(self, node: str, incarnation: int) -> bool:
        """Is this start of the node left out now?"""
        known = self._of.get(node)
        return known is not None and known.incarnation == incarnation and known.until_s < math.inf

    def expire(self, now_s: float) -> bool:
        """End what is over; true when a node may be planned with again."""
        over = [known for known in self._of.values() if known.until_s <= now_s]
        for known in over:
            known.until_s = math.inf  # kept, so that the next failure counts as one more
        return bool(over)

    def reasons(self) -> str:
        """Who is left out and why, in one line; empty when nobody is."""
        return "; ".join(f"{node}: {known.reason}" for node, known in self._of.items() if known.until_s < math.inf)

    def next_deadline_s(self) -> float:
        """When ``expire`` next has something to do."""
        return min((known.until_s for known in self._of.values()), default=math.inf)
