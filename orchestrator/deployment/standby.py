"""Standby units of the plan in force: when to ask for them, and which node is told to keep what (pure).

A node keeps the blobs of units next to its own stage on its disk: the boundary can move over them, and a neighbour can
be lost, without a download. They are asked for once per plan, when nothing else is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import Effect, Note, PlanStandby, Publish
from orchestrator.events import StandbyPlanned
from orchestrator.fleet.fleet import Node
from orchestrator.model.manifest import Blob
from orchestrator.planning.errors import BadConstraint, PlanningError
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Standby
from schemas.limits import MAX_BLOBS
from schemas.messages import BlobRef, Epoch, KeepBlobs, StandbyView
from schemas.topics import NODE_COMMAND
from schemas.units_text import describe_units

TIME_LIMIT_S = 2.0
"""A ring that is lost meanwhile waits for the solver."""


@dataclass(frozen=True)
class Kept:
    """The standby units of one node: [start, stop) of its neighbours, and their blobs, the nearest first."""

    ranges: tuple[tuple[int, int], ...]
    blobs: tuple[BlobRef, ...]


class StandbyUnits:
    """The standby units of one pipeline."""

    def __init__(self, pipeline: str, blob_urls: tuple[str, ...]) -> None:
        self._pipeline = pipeline
        self._blob_urls = blob_urls
        self._asked: Epoch | None = None
        self._planned: Epoch | None = None
        self._kept: dict[str, Kept] = {}

    def ask(self, plan: DeployedPlan, problem: Callable[[], Problem]) -> list[Effect]:
        """Ask the planner for the standby units of a plan in force, once. ``problem``: its question as of now."""
        if plan.epoch == self._asked:
            return []
        self._asked = plan.epoch
        try:
            asked = replace(problem(), time_limit_s=TIME_LIMIT_S)
        except (PlanningError, BadConstraint):
            return []
        if not {device.name for device in asked.devices}.issuperset(plan.nodes):
            return []  # a node of the ring is to go: another plan follows
        return [PlanStandby(self._pipeline, plan.epoch, asked, plan.solution.stages)]

    def planned(self, answer: StandbyPlanned, plan: DeployedPlan | None) -> list[Effect]:
        """The planner's answer: tell the ring, and nodes that kept something before."""
        if plan is None or plan.epoch != answer.epoch:
            return []
        if answer.failure:
            return [Note(f"no standby units for epoch {plan.epoch}: {answer.failure}", warning=True)]
        before = self._kept
        self._planned = plan.epoch
        self._kept = {node: kept_by(plan, node, answer.standby) for node in plan.solution.nodes}
        return [
            *(effect for node in self._kept for effect in self._tell(node)),
            *(self._command(node, ()) for node, kept in before.items() if node not in self._kept and kept.blobs),
        ]

    def give_up(self) -> list[Effect]:
        """Tell the nodes to keep nothing for the pipeline, which has no nodes any more."""
        before, self._kept = self._kept, {}
        return [self._command(node, ()) for node, kept in before.items() if kept.blobs]

    def node_returned(self, node: str) -> list[Effect]:
        """Tell a node that is back, or has started again, what to keep: it may not know."""
        return self._tell(node) if node in self._kept else []

    def _tell(self, node: str) -> list[Effect]:
        return [self._command(node, self._kept[node].blobs)]

    def _command(self, node: str, blobs: tuple[BlobRef, ...]) -> Effect:
        keep = KeepBlobs(pipeline=self._pipeline, blobs=blobs, blob_urls=self._blob_urls)
        return Publish(NODE_COMMAND.format(node=node), keep)

    def view(self, plan: DeployedPlan, fleet: Mapping[str, Node]) -> tuple[StandbyView, ...]:
        """The standby units as ``linguabus plan`` shows them: who keeps what, and how much of it is there."""
        if plan.epoch != self._planned:
            return ()
        unit_count = plan.model.manifest.num_units
        shown = []
        for node, kept in self._kept.items():
            total_bytes = sum(blob.size_bytes for blob in kept.blobs)
            beat = fleet[node].heartbeat if node in fleet else None
            for start, stop in kept.ranges:
                shown.append(
                    StandbyView(
                        node=node,
                        start=start,
                        stop=stop,
                        units=describe_units(start, stop, unit_count),
                        node_bytes=total_bytes,
                        node_bytes_on_disk=min(beat.standby_bytes, total_bytes) if beat else None,
                    )
                )
        return tuple(shown)


def kept_by(plan: DeployedPlan, node: str, standby: Sequence[Standby]) -> Kept:
    """A node's standby ranges and their blobs; blobs that its own stages have are left out."""
    manifest = plan.model.manifest
    own = [stage for stage in plan.ring if stage.node == node]
    ranges = tuple((one.start, one.stop) for one in standby if one.node == node)

    def distance(unit: int) -> int:
        return min(stage.start - unit if unit < stage.start else unit - stage.stop + 1 for stage in own)

    def blobs_of(start: int, stop: int) -> tuple[Blob, ...]:
        draft = plan.model.draft if plan.draft and stop == manifest.num_units else None
        return manifest.blobs_of(start, stop) + (draft.manifest.blobs if draft else ())

    here = {blob.sha256 for stage in own for blob in blobs_of(stage.start, stage.stop)}
    blobs: dict[str, BlobRef] = {}
    for unit in sorted((unit for start, stop in ranges for unit in range(start, stop)), key=distance):
        for blob in blobs_of(unit, unit + 1):
            if blob.sha256 not in here:
                blobs[blob.sha256] = BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes)
    return Kept(ranges, tuple(blobs.values())[:MAX_BLOBS])
