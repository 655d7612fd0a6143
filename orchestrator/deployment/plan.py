"""A plan as the orchestrator holds it, from the solver's answer to what it publishes (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.deployment.message_fit import RAISE_IT, context_that_fits
from orchestrator.effects import BuildSegments
from orchestrator.model.served import BuiltSegment, ServedModel
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Solution
from orchestrator.timing import DEFAULT_DRAFT_TOKENS
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import Epoch, NodeBirth, Plan, RoundedKv, SegmentReady, StageRef, WireDtype
from schemas.units import blocks_of

LONGER = "serve with a larger --context (or 'serve: {context: N}' in the configuration file)"
NoPlanCode = Literal["no_model", "no_nodes", "no_memory", "not_ready"]


@dataclass(frozen=True)
class NoPlan:
    """Why nothing can be served; ``code`` is one of StreamError's."""

    code: NoPlanCode
    reason: str


def usable_bytes(birth: NodeBirth, memory_margin: float) -> int:
    """Memory that plans may give a node: what it may use, less a share that is left free."""
    return math.floor((1 - memory_margin) * birth.memory_bytes)


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """The settings that every plan of a pipeline has in common.

    ``context_tokens`` and ``slots`` None: as many as fit, up to `problem_builder.context_of` and DEFAULT_SLOTS.
    ``wire_dtype`` None: what each model's figures speak for. ``memory_margin``: share of what each node may use that
    plans leave free. ``kv_dtype``: of keys and values; None: as each model was converted. ``draft``: the model that is
    to guess for each model that it can guess for.
    """

    pipeline: str
    context_tokens: int | None
    slots: int | None
    wire_dtype: WireDtype | None
    chunk_tokens: int
    draft_tokens: int = DEFAULT_DRAFT_TOKENS
    memory_margin: float = 0.0
    kv_dtype: RoundedKv | None = None
    draft: str | None = None

    def wire_of(self, model: ServedModel) -> WireDtype:
        """The type of hidden states on the wire of a model."""
        return self.wire_dtype or model.wire

    def candidate(self, epoch: Epoch, solving: Solving, solution: Solution) -> DeployedPlan:
        """The plan that the planner's solution makes with these settings, but for its batches."""
        return DeployedPlan(
            pipeline=self.pipeline,
            epoch=epoch,
            model=solving.model,
            context_tokens=solving.context_tokens,
            slots=solving.problem.slots,
            wire_dtype=self.wire_of(solving.model),
            chunk_tokens=solving.problem.prefill_chunk_tokens,
            max_message_bytes=solving.problem.max_message_bytes,
            memory_margin=self.memory_margin,
            draft=solving.draft_of(solution),
            solution=solution,
            incarnations={b.node: b.incarnation for b in solving.births if b.node in solution.nodes},
        )


@dataclass(frozen=True, kw_only=True)
class DeployedPlan:
    """A solved plan with its epoch, before or while it is in force."""

    pipeline: str
    epoch: Epoch
    model: ServedModel
    context_tokens: int
    slots: int
    wire_dtype: WireDtype
    chunk_tokens: int
    solution: Solution
    incarnations: dict[str, int]
    """Which start of each node of the ring the plan counts on."""
    max_message_bytes: int = MAX_PAYLOAD_BYTES
    """What the broker passes on at once, for all nodes it was made with."""
    memory_margin: float = 0.0
    """Share of what each node may use that it leaves free."""
    draft: str | None = None
    """The model that guesses on the last stage's node."""
    batches: tuple[int, ...] = ()
    """How many go round the ring at once, for 1, 2, ... open requests."""
    segments: tuple[BuiltSegment, ...] = ()
    """By stage, once they are assembled."""

    def is_too_long_for(self, birth: NodeBirth) -> bool:
        """Does the broker pass on shorter messages for one of the plan's nodes by now?"""
        return birth.node in self.nodes and birth.max_message_bytes < self.max_message_bytes

    @property
    def longer(self) -> str:
        """What an operator would have to do for a longer context."""
        room_tokens = context_that_fits(self.model.manifest, self.max_message_bytes)
        return LONGER if self.context_tokens < room_tokens else f"{RAISE_IT}, which is {self.max_message_bytes:,} bytes"

    @property
    def ring(self) -> tuple[StageRef, ...]:
        return tuple(StageRef(node=s.node, start=s.start, stop=s.stop) for s in self.solution.stages)

    def can_take_over(self, running: DeployedPlan) -> bool:
        """Can the open requests of a running plan go on in this one, with the KV rows that they have?"""
        return self.model is running.model and all(
            getattr(self, name) == getattr(running, name)
            for name in ("context_tokens", "slots", "wire_dtype", "chunk_tokens")
        )

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes by stage; one that holds both ends of a ring comes twice."""
        return tuple(stage.node for stage in self.solution.stages)

    def planned_bytes(self, node: str) -> int:
        """Memory the node needs in all: for all of its stages, its own overhead included."""
        return self.solution.predicted.of_node(node).memory_bytes

    def stored_bytes(self, node: str) -> int:
        """Bytes of all stages of the node on its disk: graphs and weights, each file once."""
        if not self.segments:
            return self.solution.predicted.of_node(node).stored_bytes
        mine = [segment for segment, owner in zip(self.segments, self.nodes, strict=True) if owner == node]
        return sum({blob.sha256: blob.size_bytes for part in mine for blob in part.files}.values())

    def build(self, job: int) -> BuildSegments:
        """The order to assemble its segments."""
        positions = self.context_tokens + self.model.manifest.numerics.spare_positions
        draft = self.model.draft if self.draft else None
        of_draft = draft.positions(self.context_tokens) if draft else 0
        return BuildSegments(job, self.model.name, self.ring, self.wire_dtype, positions, self.draft, of_draft)

    def message(self) -> Plan:
        """The plan for the bus; publishing it commits the epoch."""
        return Plan(
            pipeline=self.pipeline,
            epoch=self.epoch,
            model=self.model.name,
            context_tokens=self.context_tokens,
            slots=self.slots,
            wire_dtype=self.wire_dtype,
            ring=self.ring,
            starts=tuple(self.incarnations[node] for node in self.nodes),
            chunk_tokens=self.chunk_tokens,
            batches=self.batches,
            max_message_bytes=self.max_message_bytes,
            kv_rounding=self.model.manifest.kv_rounding,
            draft=self.draft,
        )


@dataclass(frozen=True)
class ReadyPlan:
    """A committed plan and what its nodes reported when they were ready."""

    plan: DeployedPlan
    ready: dict[int, SegmentReady]
    """By stage."""


@dataclass(frozen=True)
class Solving:
    """The question that the planner is at work on, and the births of the nodes it is asked about."""

    job: int
    model: ServedModel
    births: tuple[NodeBirth, ...]
    context_tokens: int
    forced: bool
    problem: Problem
    """What the planner was asked."""
    last_resort: bool = False
    """Are nodes among them that had better have no layers?"""
    before: Problem | None = None
    """What it was asked at first, where there was no plan for that."""

    def draft_of(self, solution: Solution) -> str | None:
        """The name of the draft model in a plan that answers the question."""
        asked, draft = self.problem.of_ring(len(solution.stages)), self.model.draft
        return draft.name if draft and asked.without_draft else None

    def asking(self, job: int, problem: Problem) -> Solving:
        """The same with another question, as there was no plan for what was asked."""
        before = self.before or self.problem
        return replace(self, job=job, problem=problem, context_tokens=problem.context_tokens, before=before)

    def asked_for_more(self, solution: Solution) -> Problem | None:
        """What was asked at first, without the draft model, where something was given up for one that the answer has no
        use for; else None."""
        if self.before is None or not self.problem.without_draft or self.draft_of(solution):
            return None
        return self.before.without_draft


@dataclass(frozen=True)
class Building:
    """A plan whose graphs are being assembled; with ``segments`` the roll-out waits for the old ring to drain."""

    job: int
    plan: DeployedPlan
    segments: tuple[BuiltSegment, ...] = ()
    forced: bool = False
    """Somebody asked for it: where memory is too small for two plans, open requests are interrupted."""


@dataclass(frozen=True)
class ReplanDone:
    """The end of an attempt to change the plan; ``reason`` says why it came to nothing."""

    ok: bool
    changed: bool
    reason: str = ""


def unit_counts(stage: Stage | StageRef, unit_count: int) -> tuple[int, int, int]:
    """The numbers of (embeddings, blocks, heads) in a stage."""
    return int(stage.start == 0), len(blocks_of(stage, unit_count)), int(stage.stop == unit_count)
