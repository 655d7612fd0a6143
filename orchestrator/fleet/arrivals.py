"""How many nodes may be known, and how many new ones and new starts are let in at a time (pure).

Where the broker is open to anybody, whoever likes can make up nodes. Who is real and comes too late says so again with
its next heartbeat, and is let in then; so limits make a real node wait, and a made-up one cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from schemas.rates import Rate, Rates, TokenBucket

MOST_NODES = 1000
"""That are known; of more, those that are not here give way to one that is."""
NEW_NODES = Rate(burst=64, per_s=4.0)
"""That nothing was known of."""
STARTS = Rate(burst=30, per_s=0.2)
"""Of one node: one that crashes again and again says so less often."""
_TOLD = Rate(burst=1, per_s=1 / 60)


class KnownNode(Protocol):
    """What decides who gives way."""

    live: bool

    @property
    def usable(self) -> bool:
        """Is it here, and may it have layers?"""

    @property
    def heard_s(self) -> float:
        """When something was last heard of it."""


class Arrivals:
    """Lets nodes in, or not yet."""

    def __init__(self) -> None:
        self._new = TokenBucket(NEW_NODES)
        self._starts = Rates(STARTS)
        self._told = TokenBucket(_TOLD)
        self.in_use: Callable[[], frozenset[str]] = frozenset
        """Names of nodes that plans have; these are not forgotten."""

    def is_crowded(self, now_s: float) -> bool:
        """Have more new nodes come lately than are let in? Then it is no use to ask one who it is."""
        return self._new.wait_s(now_s) > 0

    def refusal(self, node: str, nodes: Mapping[str, KnownNode], now_s: float, *, live: bool) -> str:
        """Why a start of a node is not let in now; empty when it is.

        One that is known by a stored message alone (not ``live``) never takes another one's place.
        """
        if node in nodes:
            return "" if not live or self._starts.take(node, now_s) else f"node {node} starts again and again"
        if len(nodes) >= MOST_NODES and (not live or self._oldest_gone(nodes) is None):
            return f"{MOST_NODES} nodes are known"
        return "" if not live or self._new.take(now_s) else "more new nodes come than can be real"

    def gives_way(self, nodes: Mapping[str, KnownNode]) -> str | None:
        """The node to be forgotten for another one; None while there is room."""
        return self._oldest_gone(nodes) if len(nodes) >= MOST_NODES else None

    def _oldest_gone(self, nodes: Mapping[str, KnownNode]) -> str | None:
        used = self.in_use()
        gone = [name for name, node in nodes.items() if not node.usable and name not in used]
        return min(gone, key=lambda name: (nodes[name].live, nodes[name].heard_s), default=None)

    def is_news(self, now_s: float) -> bool:
        """Is it worth a line in the log that somebody is not let in? Once a minute."""
        return self._told.take(now_s)
