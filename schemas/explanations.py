"""Explanations of a plan: what is predicted, what else was possible, what each device adds; or why there is no plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas.contract import Items, about
from schemas.operator_requests import ObjectiveName
from schemas.parts import Bytes, Count, Index, Label, Milliseconds, Name, Prose, Rate, RingStage, StageRef, Tokens
from schemas.plan_views import Gap, SolutionStatus

_Names = Annotated[tuple[Name, ...], Items(10_000)]
_Sentences = Annotated[tuple[Prose, ...], Items(10_000)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedStage(RingStage):
    """One stage of the plan."""

    decode_ms: Milliseconds = about("A decode step of one request.")
    hop_ms: Milliseconds = about("The way to the next stage.")
    prefill_ms: Milliseconds = about("The prompt that predictions are made for.")
    weight_bytes: Bytes = about("Weights in memory.")
    kv_bytes: Bytes = about("KV caches in memory.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedStandby:
    """Units that a node would keep beside its own."""

    start: Index = about("First unit on disk.")
    stop: Index = about("One past the last unit on disk.")
    warm_start: Index = about("First of those in memory.")
    warm_stop: Index = about("One past the last of those in memory.")
    units: Label = about("The units for people.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedNode:
    """One node of the plan, over all stages it holds."""

    node: Name = about("The node.")
    units: Index = about("How many units it holds.")
    load_ms: Milliseconds = about("How long a token of each of many requests keeps it busy.")
    memory_bytes: Bytes = about("Memory it needs.")
    memory_limit_bytes: Bytes = about("Memory it may use.")
    stored_bytes: Bytes = about("Disk it needs.")
    storage_limit_bytes: Bytes | None = about("Disk it may use; null: any.")
    standby: Annotated[tuple[ExplainedStandby, ...], Items(1_000)] = about("Units it would keep beside its own.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedFigures:
    """What the plan should give."""

    decode_ms: Milliseconds = about("Time per token of one request.")
    tokens_per_s: Rate = about("Of one request.")
    streams: Count | None = about("Requests at once that were planned for; null: many.")
    tokens_per_s_many: Rate = about("Over those.")
    bottleneck_ms: Milliseconds = about("Time per token of the busiest node.")
    bottleneck_node: Name = about("The busiest node.")
    ttft_ms: Milliseconds = about("Until the first token.")
    prompt_tokens: Tokens = about("Of a prompt of this length.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedPlan:
    """A plan made by a simple rule, beside the best one."""

    name: Label = about("The rule.")
    nodes: _Names = about("Nodes it uses.")
    allowed: bool = about("Does it keep within all limits?")
    wrong: _Sentences = about("Which limits it breaks.")
    decode_ms: Milliseconds = about("Time per token of one request.")
    bottleneck_ms: Milliseconds = about("Time per token of the busiest node.")
    tokens_per_s: Rate = about("Of one request.")
    tokens_per_s_many: Rate = about("Over many requests.")
    times_slower: Rate | None = about("By the plan's objective; null: the plan takes no time at all.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRole:
    """What a device adds to the plan, or would cost. ``without_ms`` and ``with_ms`` are left out where nothing was
    worked out."""

    node: Name = about("The device.")
    role: Literal["used", "left out", "refused"] = about("Is it in the plan?")
    without_ms: Milliseconds | None = about("Of a used one: time per token of the best plan without it.", default=None)
    with_ms: Milliseconds | None = about("Of one left out: time per token of the best plan with it.", default=None)
    says: Prose = about("The same for people.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineShare:
    """One pipeline of a divided fleet."""

    nodes: _Names = about("Its nodes.")
    stages: Annotated[tuple[StageRef, ...], Items(10_000)] = about("Its ring.")
    decode_ms: Milliseconds = about("Time per token of one request.")
    tokens_per_s_many: Rate = about("Over many requests.")


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetDivision:
    """A fleet that is divided into several pipelines."""

    feasible: Literal[True] = about("There is a plan.", default=True)
    pipelines: Annotated[tuple[PipelineShare, ...], Items(10_000)] = about("The pipelines.")
    unused: _Names = about("Nodes that none of them uses.")
    tokens_per_s_many: Rate = about("Over all pipelines.")
    bound_tokens_per_s: Rate = about("More than this no division could give.")
    gap: Gap = about("By what share a better division may be better.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanExplanation:
    """The best plan, and why it is as it is."""

    feasible: Literal[True] = about("There is a plan.", default=True)
    objective: ObjectiveName = about("What it is best at.")
    status: SolutionStatus = about("How much is known about it.")
    solver: Label = about("Who proved it.")
    solver_note: Prose = about("Which solver is installed but does not work; else empty.", default="")
    gap: Gap = about("By what share a better plan may be better; 0 is proven.")
    solver_gap: Gap = about("What the MILP solver had left when its time was up.")
    solve_ms: Milliseconds = about("How long it took to find.")
    stages: Annotated[tuple[ExplainedStage, ...], Items(10_000)] = about("The ring.")
    nodes: Annotated[tuple[ExplainedNode, ...], Items(10_000)] = about("Nodes used, in ring order.")
    predicted: ExplainedFigures = about("What it should give.")
    compared: Annotated[tuple[ComparedPlan, ...], Items(16)] = about("Plans made by simple rules.")
    devices: Annotated[tuple[DeviceRole, ...], Items(10_000)] = about("Every device, the busiest first.")
    why: _Sentences = about("Why it is as it is, for people.")
    division: FleetDivision | None = about("The pipelines that the fleet would be divided into.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoPlanExplanation:
    """Why there is no plan, and what would help."""

    feasible: Literal[False] = about("There is none.", default=False)
    objective: ObjectiveName = about("What it should have been best at.")
    reason: Prose = about("Why there is none.")
    missing_bytes: Bytes = about("Memory or disk that is missing; 0 where that is not the reason.")
    smallest_fix: Prose = about("The smallest change that would allow one.")
    fixes: _Sentences = about("Changes that would, the smallest first.")
