"""The nodes that a pipeline may plan with (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from orchestrator.fleet.fleet import FleetState, Node
from orchestrator.fleet.health import Condition
from orchestrator.pipelines.allocation_state import AllocationState, NodeAllocation
from schemas.messages import NodeBirth

_SILENT_S = 2.5
"""Two heartbeats are missing."""


class PipelineNodes:
    """The fleet as one pipeline sees it: it plans with its own nodes, as soon as no other pipeline holds them."""

    def __init__(
        self, fleet: FleetState, allocation: NodeAllocation, *, min_nodes: int, is_dividing: Callable[[], bool]
    ) -> None:
        """``min_nodes``: see `FleetView`, where the fleet is not divided. ``is_dividing``: see `PartitionSchedule`."""
        self._fleet = fleet
        self._allocation = allocation
        self._min_nodes = min_nodes
        self._is_dividing = is_dividing
        self._held_elsewhere: frozenset[str] = frozenset()

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, Node]:
        return self._fleet.nodes

    @property
    def min_nodes(self) -> int:
        """The number of nodes that the first plan waits for; a division has waited for them all."""
        return self._min_nodes if self._allocation.state is AllocationState.UNDIVIDED else 1

    @property
    def is_divided(self) -> bool:
        """Are there other pipelines with nodes of the fleet, or are there to be?"""
        return self._allocation.state is not AllocationState.UNDIVIDED

    @property
    def on_hold(self) -> bool:
        """Must the pipeline begin no plan, because it is being decided which nodes it gets?"""
        return self._allocation.state.on_hold or self._is_dividing()

    def usable(self) -> tuple[NodeBirth, ...]:
        """Births of the pipeline's own free nodes, by name."""
        return self._free(self._fleet.usable())

    def plannable(self) -> tuple[NodeBirth, ...]:
        """Births of those free nodes that should not give up their layers, by name."""
        return self._free(self._fleet.plannable())

    def are_free(self) -> bool:
        """Is none of the pipeline's nodes, here or not, held by another pipeline?"""
        names = self._allocation.names
        own = {birth.node for birth in self._fleet.usable()} if names is None else names
        return not own & self._held_elsewhere

    def _free(self, births: tuple[NodeBirth, ...]) -> tuple[NodeBirth, ...]:
        names, held = self._allocation.names, self._held_elsewhere
        return tuple(birth for birth in births if (names is None or birth.node in names) and birth.node not in held)

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there, whoever may plan with it?"""
        return self._fleet.is_usable(node, incarnation)

    def conditions(self) -> dict[str, Condition]:
        """What a plan should know of each node's battery and heat, by name."""
        return self._fleet.conditions()

    def why_drained(self, node: str) -> str:
        """Why no new plan may use this node; empty when one may."""
        return self._fleet.why_drained(node)

    def is_weak(self, node: str) -> bool:
        """Is a node's own state, such as its battery, the only reason why it should be given no layers?"""
        return self._fleet.is_weak(node)

    def silent(self, names: Iterable[str], now_s: float) -> list[str]:
        """Which of these nodes are not heard of, though they say how they are once a second."""
        return [name for name in dict.fromkeys(names) if now_s - self._fleet.nodes[name].heard_s >= _SILENT_S]

    def outline(self) -> tuple[Any, ...]:
        """A value that is equal as long as which nodes the pipeline may plan with, and when, has not changed."""
        return (self._allocation.state, self._allocation.names, self._held_elsewhere, self.on_hold)

    # --- orders -----------------------------------------------------------------------------------------------

    def hold_elsewhere(self, nodes: Set[str]) -> None:
        """Note the nodes that other pipelines use."""
        self._held_elsewhere = frozenset(nodes)
