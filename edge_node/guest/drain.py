"""How a node that was asked to stop ends: others first take its layers over, if they can in time (pure)."""

from __future__ import annotations

from edge_node.guest.step import Step

BROKER_PATIENCE_S = 2.0
"""A leaving node waits this long for a broker that does not answer: without it nobody can take the layers over."""


class Drain:
    """The orderly end of a node: from the moment it has a ``reason``, step by step."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: how long to wait for others; 0: not at all."""
        self.reason = ""
        self.ends_by_s: float | None = None
        """The node ends then, whatever it still holds; None before it was announced."""
        self._patience_s = patience_s

    def step(self, has_layers: bool, now_s: float, *, silent_s: float = 0.0) -> Step:
        """Decide what to do now. ``silent_s``: for how long the broker has not answered."""
        if not has_layers:
            return Step("it holds no layers: it ends", ends=True)
        if silent_s >= BROKER_PATIENCE_S and self._patience_s > 0:
            return Step("the broker does not answer: it ends with the layers it holds", ends=True)
        if self.ends_by_s is None and self._patience_s > 0:
            self.ends_by_s = now_s + self._patience_s
            limit = f"after {self._patience_s:g} s at the latest"
            return Step(f"hands its layers to others and ends, {limit}; again to end now", announces=True)
        if self.ends_by_s is None or now_s >= self.ends_by_s:
            return Step("it ends with the layers it holds", ends=True)
        return Step()
