"""A fleet as a home shows it: few figures, rounded so that they change when something has changed (pure)."""

from __future__ import annotations

from orchestrator.control_plane import ControlPlane
from orchestrator.operator_api.overview import overview
from schemas.messages import HomeFleet, HomeNode, NodeView, OverviewReply, StatusReply

_LONGEST = 200


def home_states(plane: ControlPlane, now_s: float) -> tuple[HomeFleet, tuple[HomeNode, ...]]:
    """The states of the fleet and of each of its nodes."""
    seen = overview(plane, now_s)
    return fleet_state(plane.status(), seen), tuple(node_state(node, seen) for node in seen.nodes)


def fleet_state(status: StatusReply, seen: OverviewReply) -> HomeFleet:
    """The state of the fleet."""
    return HomeFleet(
        pipeline=status.pipeline,
        state=status.state,
        model=status.model,
        nodes=status.nodes,
        tokens_per_s=_rounded(sum(pipeline.tokens_per_s for pipeline in seen.pipelines)),
        open_requests=status.open_requests,
        queued_requests=status.queued_requests,
    )


def node_state(node: NodeView, seen: OverviewReply) -> HomeNode:
    """The state of a node."""
    mine = [
        (pipeline, [stage.units for stage in pipeline.stages if stage.node == node.node]) for pipeline in seen.pipelines
    ]
    temperature_c = node.battery_temperature_c if node.temperature_c is None else node.temperature_c
    return HomeNode(
        node=node.node,
        state=node.state,
        drained=bool(node.drained),
        layers="; ".join(units for _, held in mine for units in held)[:_LONGEST],
        tokens_per_s=_rounded(sum(pipeline.tokens_per_s for pipeline, held in mine if held)),
        battery_percent=None if node.battery_percent is None else round(node.battery_percent),
        charging=node.charging,
        temperature_c=None if temperature_c is None else round(temperature_c),
        label=node.label,
    )


def _rounded(tokens_per_s: float) -> float:
    return round(tokens_per_s, 1)
