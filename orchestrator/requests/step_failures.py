"""The failures of nodes to compute a request's next token, and what they say of nodes and of the model (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.messages import RequestFailed

MOST_TRIES = 3
"""Rings that may fail at the same token of a request."""


@dataclass(frozen=True)
class StepVerdict:
    """What follows from a failure.

    ``why_end``: no other ring would help; empty when one is to try. ``acquitted``: nodes that had been taken for the
    cause.
    """

    why_end: str = ""
    acquitted: tuple[str, ...] = ()


@dataclass
class StepFailures:
    """The failures at one token of a request. The next token begins anew: what fails now and then goes on."""

    _position: int = -1
    _nodes: list[str] = field(default_factory=list)
    """Whose fault each was taken for, the newest last."""

    def add(self, failure: RequestFailed, position: int) -> StepVerdict:
        """Note that the token at ``position`` can't be computed."""
        if position != self._position:
            self._position, self._nodes = position, []
        newest = failure.suspect or failure.node
        earlier = [node for node in dict.fromkeys(self._nodes) if node != newest]
        self._nodes.append(newest)
        times = len(self._nodes)
        if failure.code == "not_finite" and earlier:  # no two devices break at the same token
            alike = f"{failure.reason}, as on {', '.join(earlier)}"
            why = f"{alike}: it is the model, whose weights do not suit this precision"
            return StepVerdict(why, (*earlier, newest))
        if failure.code == "not_finite" and times > 1:
            return StepVerdict(
                f"{failure.reason}, in two rings, and no other node can try: it is this node, or the model"
            )
        return StepVerdict(f"{failure.reason}; {times} rings have failed at this token" if times >= MOST_TRIES else "")
