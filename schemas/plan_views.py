"""What operators are shown of plans and moves: the parts of answers, and what the history keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits
from schemas.contract import Items, Number, about
from schemas.operator_requests import ObjectiveName
from schemas.parts import (
    Bytes,
    Count,
    EpochText,
    Index,
    KvDtype,
    Label,
    Milliseconds,
    Name,
    Prose,
    Rate,
    RingStage,
    Seconds,
    Tokens,
    UnitsOnNode,
    WireDtype,
)

SolutionStatus = Literal["optimal", "feasible_gap", "baseline"]
Gap = Annotated[float, Number(0, 1e9)]
MoveMode = Literal["copy", "prefill"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView(RingStage):
    """One stage of a plan: predicted, and what its node reported when it was ready (null: nothing was)."""

    predicted_decode_ms: Milliseconds = about("A decode step of one request.")
    predicted_hop_ms: Milliseconds = about("The way to the next stage.")
    predicted_prefill_ms: Milliseconds = about("The prompt that predictions are made for.")
    weight_bytes: Bytes = about("Weights in memory.")
    kv_bytes: Bytes = about("KV caches in memory.")
    planned_bytes: Bytes = about("Memory of the node in all: all its stages, its own overhead included.")
    memory_limit_bytes: Bytes = about("Memory that the plan may give it: what the node may use, less the margin.")
    stored_bytes: Bytes = about("Files of all the node's stages.")
    rss_bytes: Bytes | None = about("Resident memory of the node: now; in the history, once it was ready.")
    peak_rss_bytes: Bytes | None = about("Its largest until then, since it last released a stage or measured itself.")
    downloaded_bytes: Bytes | None = about("What it fetched for the stage.")
    load_s: Seconds | None = about("How long it took to load the stage.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanView:
    """A plan: its ring, how it was found and what it should give."""

    pipeline: Name = about("The pipeline.")
    epoch: EpochText = about("The plan's epoch.")
    model: Name = about("The model's name.")
    context_tokens: Tokens = about("Positions per request.")
    slots: Annotated[int, Number(1, limits.MAX_SLOTS)] = about("Requests served at the same time.")
    batches: Annotated[tuple[Count, ...], Items(limits.MAX_SLOTS)] = about(
        "Batches that go round at once, for 1, 2, ... open requests.", default=()
    )
    wire_dtype: WireDtype = about("Type of hidden states on the wire.")
    kv_dtype: KvDtype | None = about("Type of keys and values in memory; left out: not known.", default=None)
    kv_fp16_blocks: Index = about("How many blocks keep them in fp16 where the others keep int8.", default=0)
    draft: Name | None = about("The model that the last stage's node guesses with; left out: none.", default=None)
    chunk_tokens: Tokens = about("Most tokens of a prompt in one run.")
    memory_margin: Annotated[float, Number(0, limits.MAX_MEMORY_MARGIN)] = about(
        "Share of what each node may use that is left free.", default=0.0
    )
    unit_count: Index = about("Units of the model.")
    stages: Annotated[tuple[StageView, ...], Items(limits.MAX_STAGES)] = about("The ring.")
    objective: ObjectiveName = about("What it is best at.")
    status: SolutionStatus = about("How much is known about it.")
    gap: Gap = about("By what share a better plan may be better; 0 is proven.")
    solver: Label = about("Who proved it.")
    solver_note: Prose = about("Which solver is installed but does not work; else empty.", default="")
    solver_gap: Gap = about("What the MILP solver had left when its time was up.")
    solve_ms: Milliseconds = about("How long it took to find.")
    predicted_decode_ms: Milliseconds = about("Time per token of one request.")
    predicted_tokens_per_s: Rate = about("Of one request.")
    predicted_tokens_per_s_many: Rate = about("Over many requests.")
    predicted_ttft_ms: Milliseconds = about("Until the first token.")
    predicted_prompt_tokens: Tokens = about("Of a prompt of this length.")
    bottleneck_node: Name = about("The busiest node.")


@dataclass(frozen=True, kw_only=True, slots=True)
class CommittedPlan(PlanView):
    """A plan of the history."""

    committed_at: Annotated[float, Number(0, 1e12)] = about("When it came into force, in seconds since 1970.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StandbyView:
    """Units that a node keeps on its disk beside its own. The sizes are of all that it keeps."""

    node: Name = about("The node.")
    start: Index = about("First unit.")
    stop: Index = about("One past the last unit.")
    units: Label = about("The units for people.")
    node_bytes: Bytes = about("What the node is to keep.")
    node_bytes_on_disk: Bytes | None = about("How much of it is there; null: not known.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveUnderWay:
    """A live move of open requests from one ring to another."""

    phase: Literal["copying", "holding", "finishing", "ready", "failed"] = about("How far it is.")
    from_epoch: EpochText = about("The plan in force.")
    to_epoch: EpochText = about("The plan that is to follow.")
    units: Prose = about("Which units change their node, for people.")
    mode: MoveMode = about("Are KV rows copied, or computed again?")
    expected_bytes: Bytes = about("KV rows to copy.")
    copied_bytes: Bytes = about("KV rows copied so far.")
    waits_for: Annotated[tuple[Name, ...], Items(limits.MAX_STAGES)] = about("Nodes whose report is awaited.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveRecord:
    """A live move that ended well."""

    from_epoch: EpochText = about("The plan that was in force.")
    to_epoch: EpochText = about("The plan that followed.")
    units: Prose = about("Which units changed their node, for people.")
    mode: MoveMode = about("Were KV rows copied, or computed again?")
    requests: Count = about("Requests that went on.")
    prepared_s: Seconds = about("Until every new stage was ready.")
    copied_bytes: Bytes = about("KV rows copied.")
    copied_s: Seconds = about("How long that took.")
    paused_s: Seconds = about("From the hold to the switch: as long as readers waited.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MovesView:
    """The live moves of a pipeline."""

    now: MoveUnderWay | None = about("The one under way.")
    done: Count = about("How many ended well.")
    failed: Count = about("How many were given up.")
    last: MoveRecord | None = about("The last one that ended well.")
    last_failure: Prose = about("Why the last one that was given up was; else empty.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOnItsWay:
    """A plan that is to follow the one in force."""

    state: Label = about("How far it is, in a word or two.")
    epoch: EpochText = about("Its epoch.")
    model: Name = about("The model.")
    stages: Annotated[tuple[UnitsOnNode, ...], Items(limits.MAX_STAGES)] = about("The ring.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInForce(PlanView):
    """A plan that is, or was until now, in force, and what goes on beside it."""

    state: Label = about("What the pipeline does, in a word or two.")
    in_force: bool = about("False: it was taken down, for its successor or with its ring.")
    next: PlanOnItsWay | None = about("The plan that is on its way in its place.")
    standby: Annotated[tuple[StandbyView, ...], Items(10_000)] = about("Units that nodes keep beside their own.")
    moves: MovesView = about("Live moves.")
    left_out: Prose = about("Nodes that are here but get no layers, and why; else empty.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedStage(UnitsOnNode):
    """One stage of a plan that is compared."""

    decode_ms: Milliseconds = about("A decode step of one request.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedFigures:
    """A plan with the devices as they are now."""

    decode_ms: Milliseconds = about("Time per token of one request.")
    tokens_per_s: Rate = about("Of one request.")
    tokens_per_s_many: Rate = about("Over many requests.")
    stages: Annotated[tuple[ComparedStage, ...], Items(limits.MAX_STAGES)] = about("The ring.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedMove:
    """What a live move would take."""

    mode: MoveMode = about("Would KV rows be copied, or computed again?")
    copy_bytes: Bytes = about("KV rows to copy.")
    copy_ms: Milliseconds = about("How long copying would take.")
    lost_ms: Milliseconds = about("What answers under way would lose.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanComparison:
    """The plan in force beside the best one."""

    pipeline: Name = about("The pipeline.")
    epoch: EpochText = about("The plan in force.")
    objective: ObjectiveName = about("What plans are compared by.")
    now: ComparedFigures | None = about("The plan in force; null: it should not go on.")
    best: ComparedFigures | None = about("The best plan; null: none is possible.")
    gain: Annotated[float, Number(-1e12, 1)] | None = about("Share of the time that a move saves.")
    move: ExpectedMove | None = about("What the move would take; null: nothing moves, or not while requests are open.")
    moves: bool = about("Is there anything to be gained by a move?")
    reason: Prose = about("Why, for people.")
