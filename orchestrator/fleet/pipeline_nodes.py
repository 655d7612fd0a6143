"""Which nodes a pipeline may plan with (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from orchestrator.fleet.fleet import FleetState, Node
from orchestrator.fleet.health import Condition
from schemas.messages import NodeBirth


class FleetView(Protocol):
    """What a director sees of the fleet."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Every node that was ever heard of."""

    def usable(self) -> tuple[NodeBirth, ...]:
        """Births of the nodes that are here, by name."""

    def plannable(self) -> tuple[NodeBirth, ...]:
        """Births of those that a new plan may use, by name."""

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there?"""

    def conditions(self) -> dict[str, Condition]:
        """By node: what a plan should know of its battery and heat."""

    def why_drained(self, node: str) -> str:
        """Why no new plan may use this node; empty when one may."""

    def is_weak(self, node: str) -> bool:
        """Should this node be given no layers for its own sake alone?"""


class PipelineNodes:
    """The fleet as one pipeline sees it: it plans with its own nodes, as soon as no other pipeline holds them."""

    def __init__(self, fleet: FleetState) -> None:
        self._fleet = fleet
        self.names: frozenset[str] | None = None
        """None: every node."""
        self.held_elsewhere: frozenset[str] = frozenset()

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._fleet.nodes

    def usable(self) -> tuple[NodeBirth, ...]:
        """Births of its own free nodes, by name."""
        births = (birth for birth in self._fleet.usable() if self.names is None or birth.node in self.names)
        return tuple(birth for birth in births if birth.node not in self.held_elsewhere)

    def plannable(self) -> tuple[NodeBirth, ...]:
        """Births of those of them that should not give up their layers, by name."""
        return tuple(birth for birth in self.usable() if not self.why_drained(birth.node))

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there, whoever may plan with it?"""
        return self._fleet.is_usable(node, incarnation)

    def conditions(self) -> dict[str, Condition]:
        """By node: what a plan should know of its battery and heat."""
        return self._fleet.conditions()

    def why_drained(self, node: str) -> str:
        """Why no new plan may use this node; empty when one may."""
        return self._fleet.why_drained(node)

    def is_weak(self, node: str) -> bool:
        """Should this node be given no layers for its own sake alone?"""
        return self._fleet.is_weak(node)
