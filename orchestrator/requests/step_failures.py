"""The failures of nodes to compute a request's next token, and what they say of nodes and of the model (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.messages import RequestFailed

MOST_TRIES = 3
"""Rings that may fail at the same token of a request."""


@dataclass
class StepFailures:
    """The failures at one token of a request. The next token begins anew: what fails now and then goes on."""

    position: int = -1
    nodes: list[str] = field(default_factory=list)
    """Whose fault each was taken for, the newest last."""

    def add(self, failure: RequestFailed, position: int) -> None:
        """Note that the token at ``position`` can't be computed."""
        if position != self.position:
            self.position, self.nodes = position, []
        self.nodes.append(failure.suspect or failure.node)

    @property
    def is_models_fault(self) -> bool:
        """Did several nodes fail? No two devices break at the same token."""
        return len(set(self.nodes)) > 1

    def verdict(self, failure: RequestFailed) -> str:
        """Why the request ends, as another ring would not help; empty when one is to try."""
        newest, earlier = self.nodes[-1], list(dict.fromkeys(self.nodes[:-1]))
        if failure.code == "not_finite" and self.is_models_fault:
            others = ", ".join(node for node in earlier if node != newest)
            return f"{failure.reason}, as on {others}: it is the model, whose weights do not suit this precision"
        if failure.code == "not_finite" and earlier:
            return f"{failure.reason}, in two rings, and no other node can try: it is this node, or the model"
        if len(self.nodes) >= MOST_TRIES:
            return f"{failure.reason}; {len(self.nodes)} rings have failed at this token"
        return ""
