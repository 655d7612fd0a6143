"""The roll-out of one epoch: from the command to prepare until every node is ready (pure)."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.deployment.message_fit import RAISE_IT
from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import Effect, Note, command
from orchestrator.model.served import BuiltSegment
from orchestrator.text.figures import megabytes
from schemas.messages import (
    Basis,
    DraftModel,
    FetchProgress,
    LoadFailureCode,
    NodeBirth,
    PrepareProgress,
    PrepareSegment,
    ReleaseSegment,
    SegmentFailed,
    SegmentReady,
    encode,
)


class RolloutState(enum.Enum):
    """The state of a roll-out."""

    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"


class Rollout:
    """The roll-out of one plan: waits for every stage of its ring.

    ``failed_node``, ``reason`` and ``code`` say why it failed.
    """

    def __init__(self, plan: DeployedPlan, *, silence_s: float) -> None:
        self.plan = plan
        self.state = RolloutState.PREPARING
        self.ready: dict[int, SegmentReady] = {}
        """By stage."""
        self.progress: dict[int, PrepareProgress] = {}
        """By stage."""
        self.failed_node = ""
        self.reason = ""
        self.code: LoadFailureCode = "internal"
        self.took_s = 0.0
        """Until every stage was ready."""
        self._silence_s = silence_s
        self._begun_s = 0.0
        self._commands: tuple[tuple[str, PrepareSegment], ...] = ()
        self._heard_s: dict[str, float] = {}

    def start(self, commands: Sequence[tuple[str, PrepareSegment]], now_s: float) -> list[Effect]:
        """Tell every node to prepare."""
        self._begun_s = now_s
        self._commands = tuple(commands)
        self._heard_s = {node: now_s for node, _ in commands}
        stages = ", ".join(f"{s.node} [{s.start}, {s.stop})" for s in self.plan.ring)
        return [
            Note(f"epoch {self.plan.epoch} of {self.plan.pipeline}: preparing {stages}"),
            *(command(node, prepare) for node, prepare in commands),
        ]

    def again(self, node: str | None = None) -> list[Effect]:
        """Tell those nodes again to prepare that are not ready; nodes that know already say so again.

        A connection was lost, the node's or (without ``node``) ours, and with it perhaps what was said.
        """
        if self.state is not RolloutState.PREPARING:
            return []
        return [
            command(name, prepare)
            for name, prepare in self._commands
            if node in (None, name) and prepare.stage not in self.ready
        ]

    def reply(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """Take in a node's progress, readiness or failure, or that it registers again; other epochs are ignored."""
        if isinstance(message, NodeBirth):
            return self.again(node) if message.incarnation == self.plan.incarnations.get(node) else []
        if not isinstance(message, PrepareProgress | SegmentReady | SegmentFailed):
            return []
        if message.epoch != self.plan.epoch or message.pipeline != self.plan.pipeline or node not in self._heard_s:
            return []
        self._heard_s[node] = now_s
        if isinstance(message, PrepareProgress):
            self.progress[message.stage] = message
            return []
        if message.incarnation != self.plan.incarnations[node] or self.state is not RolloutState.PREPARING:
            return []
        if isinstance(message, SegmentFailed):
            self.code = message.code
            return self.fail(node, message.reason)
        if message.stage >= len(self.plan.nodes) or self.plan.nodes[message.stage] != node:
            return []
        self.ready[message.stage] = message
        if len(self.ready) == len(self.plan.nodes):
            self.state = RolloutState.READY
            self.took_s = now_s - self._begun_s
        told: list[Effect] = [
            Note(
                f"epoch {self.plan.epoch}: {node} is ready for stage {message.stage} after {message.load_s:.2f} s,"
                f" {megabytes(message.downloaded_bytes, 1)} fetched, {megabytes(message.rss_bytes)} resident"
            )
        ]
        if message.draft_failure:
            text = f"{node} can't use the draft model {self.plan.draft}: {message.draft_failure}"
            told.append(Note(text, warning=True, kind="no_draft", node=node, pipeline=self.plan.pipeline))
        return told

    def progress_of_nodes(self) -> dict[str, FetchProgress]:
        """Bytes that are there and bytes that are wanted, by node."""
        total: dict[str, FetchProgress] = {}
        for report in self.progress.values():
            so_far = total.get(report.node, FetchProgress(done_bytes=0, total_bytes=0))
            total[report.node] = FetchProgress(
                done_bytes=so_far.done_bytes + report.done_bytes, total_bytes=so_far.total_bytes + report.total_bytes
            )
        return total

    def check(self, is_usable: Callable[[str, int], bool], now_s: float) -> list[Effect]:
        """Fail when a node went away or fell silent."""
        if self.state is RolloutState.FAILED:
            return []
        for node, incarnation in self.plan.incarnations.items():
            if not is_usable(node, incarnation):
                return self.fail(node, "it went away")
            if node in self._awaited and now_s >= self._heard_s[node] + self._silence_s:
                return self.fail(node, f"no progress for {self._silence_s:g} s")
        return []

    def fail(self, node: str, reason: str) -> list[Effect]:
        """Give the epoch up: every node forgets it."""
        self.state = RolloutState.FAILED
        self.failed_node, self.reason = node, reason
        release = ReleaseSegment(pipeline=self.plan.pipeline, epoch=self.plan.epoch)
        return [
            Note(
                f"epoch {self.plan.epoch} given up: {node}: {reason}",
                warning=True,
                kind="given_up",
                pipeline=self.plan.pipeline,
            ),
            *(command(name, release) for name in self._heard_s),
        ]

    def next_deadline_s(self) -> float:
        """When ``check`` next has something to find by time alone."""
        if self.state is not RolloutState.PREPARING:
            return math.inf
        return min((self._heard_s[node] + self._silence_s for node in self._awaited), default=math.inf)

    @property
    def _awaited(self) -> set[str]:
        """Nodes with a stage that is not ready yet."""
        return {node for stage, node in enumerate(self.plan.nodes) if stage not in self.ready}


def why_too_long(plan: DeployedPlan, blob_urls: tuple[str, ...], running: DeployedPlan | None) -> str:
    """Why the commands to prepare a plan can't reach its nodes, for the broker's limit is low; empty if they can."""
    basis = Basis(epoch=running.epoch, ring=running.ring) if running else None
    commands = prepare_commands(plan, blob_urls, {}, basis)
    node, size_bytes = max(((node, len(encode(prepare))) for node, prepare in commands), key=lambda found: found[1])
    if size_bytes <= plan.max_message_bytes:
        return ""
    return (
        f"what {node} has to be told of its part takes a message of {size_bytes:,} bytes, and the broker passes on"
        f" {plan.max_message_bytes:,} bytes at most: {RAISE_IT}"
    )


def prepare_commands(
    plan: DeployedPlan, blob_urls: tuple[str, ...], beside_bytes: dict[str, int], basis: Basis | None = None
) -> list[tuple[str, PrepareSegment]]:
    """The commands to prepare a plan, (node, command) for every stage.

    ``beside_bytes``: what a node still holds of the plan that runs.
    """
    commands = []
    for index, (stage, segment) in enumerate(zip(plan.ring, plan.segments, strict=True)):
        prepare = PrepareSegment(
            pipeline=plan.pipeline,
            epoch=plan.epoch,
            stage=index,
            ring=plan.ring,
            model=plan.model.name,
            graph=segment.graph,
            blobs=segment.blobs,
            answer=segment.answer,
            blob_urls=blob_urls,
            kv_layers=segment.kv_layers,
            width_in=segment.width_in,
            width_out=segment.width_out,
            vocab_size=plan.model.manifest.vocab_size,
            context_tokens=plan.context_tokens,
            slots=plan.slots,
            chunk_tokens=plan.chunk_tokens,
            same_bits=plan.model.manifest.numerics.same_bits,
            wire_dtype=plan.wire_dtype,
            batches=plan.batches,
            basis=basis,
            planned_bytes=plan.planned_bytes(stage.node) + beside_bytes.get(stage.node, 0),
            draft=_draft(plan, segment.draft) if segment.draft else None,
            max_message_bytes=plan.max_message_bytes,
        )
        commands.append((stage.node, prepare))
    return commands


def _draft(plan: DeployedPlan, segment: BuiltSegment) -> DraftModel:
    """What the last stage's node is told of its draft model."""
    draft = plan.model.draft
    assert draft
    return DraftModel(
        model=draft.name,
        graph=segment.graph,
        blobs=segment.blobs,
        kv_layers=segment.kv_layers,
        vocab_size=draft.manifest.vocab_size,
        context_tokens=draft.context_tokens(plan.context_tokens),
        same_bits=draft.manifest.numerics.same_bits,
    )
