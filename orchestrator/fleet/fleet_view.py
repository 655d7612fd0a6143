"""The fleet as one pipeline sees it (a port)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from orchestrator.fleet.fleet import Node
from orchestrator.fleet.health import Condition
from schemas.messages import NodeBirth


class FleetView(Protocol):
    """What the parts of a pipeline ask about nodes."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Every node that was ever heard of."""

    @property
    def min_nodes(self) -> int:
        """The number of nodes that the first plan waits for."""

    @property
    def is_divided(self) -> bool:
        """Are there other pipelines with nodes of the fleet, or are there to be?"""

    @property
    def on_hold(self) -> bool:
        """Is it being decided which nodes the pipeline gets? No plan is begun meanwhile."""

    def usable(self) -> tuple[NodeBirth, ...]:
        """Births of the nodes that are here, by name."""

    def plannable(self) -> tuple[NodeBirth, ...]:
        """Births of the nodes that a new plan may use, by name."""

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there?"""

    def conditions(self) -> dict[str, Condition]:
        """What a plan should know of each node's battery and heat, by name."""

    def why_drained(self, node: str) -> str:
        """Why no new plan may use this node; empty when one may."""

    def is_weak(self, node: str) -> bool:
        """Is a node's own state, such as its battery, the only reason why it should be given no layers?"""
