"""Which nodes a pipeline may plan with (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from orchestrator.fleet import FleetState, Node
from schemas.messages import NodeBirth


class FleetView(Protocol):
    """What a director sees of the fleet."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Every node that was ever heard of."""

    def usable(self) -> tuple[NodeBirth, ...]:
        """Births of the nodes a plan may use, by name."""

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there?"""


class Members:
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

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there, whoever may plan with it?"""
        return self._fleet.is_usable(node, incarnation)
