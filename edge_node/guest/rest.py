"""When a node rests: it wants no layers for now, and takes some again by itself (pure)."""

from __future__ import annotations

from edge_node.guest.step import Step


class Rest:
    """Reasons to rest by kind, and what follows: others take the layers over first, if they can in time."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: how long to wait for others; 0: not at all."""
        self.lets_go_by_s: float | None = None
        """The node lets its layers go then, if it still holds any; None while it does not rest."""
        self._patience_s = patience_s
        self._reasons: dict[str, str] = {}
        self._said = ""

    @property
    def reason(self) -> str:
        """Why the node rests; empty while it does not."""
        return "; ".join(self._reasons.values())

    def because(self, kind: str, reason: str) -> None:
        """Set why the node rests, as far as this kind of reason goes; empty: not for that any more."""
        if reason:
            self._reasons[kind] = reason
        else:
            self._reasons.pop(kind, None)

    def step(self, has_layers: bool, now_s: float) -> Step:
        """Decide what to do now."""
        reason, before = self.reason, self._said
        if reason != before:
            self._said = reason
            if not reason:
                self.lets_go_by_s = None
                return Step("it rests no longer: it takes layers again", announces=True)
            if not before:
                self.lets_go_by_s = now_s + self._patience_s
            waits = f": others are to take its layers over within {self._patience_s:g} s" if has_layers else ""
            return Step(f"it rests ({reason}){waits}", announces=True)
        if reason and has_layers and self.lets_go_by_s is not None and now_s >= self.lets_go_by_s:
            return Step(f"it rests ({reason}) and lets its layers go: answers wait for it", lets_go=True)
        return Step()

    def due_s(self, has_layers: bool) -> float | None:
        """When ``step`` next has something to do by time alone."""
        return self.lets_go_by_s if has_layers else None
