"""Replies to operators: one message for each operation, and one for all that is refused.

A reply to ``control.NAME`` is called ``control.NAME.reply``; it goes to ``control/{client}/{request}/reply``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from schemas.client_messages import FleetEvent
from schemas.contract import Items, about
from schemas.explanations import NoPlanExplanation, PlanExplanation
from schemas.fleet_views import (
    NodeView,
    PipelineAtWork,
    PipelineDecisions,
    PipelineStatus,
    ProfileView,
    ProgressOfNodes,
    StoryView,
)
from schemas.operator_requests import MOST_EVENTS, MOST_HISTORY, MOST_STORY_ENTRIES, PlanConstraints
from schemas.parts import (
    Bytes,
    Count,
    EpochText,
    Label,
    Line,
    Name,
    NodeLabel,
    Prose,
    RequestId,
    ToolFormat,
    UnsignedInt32,
)
from schemas.plan_views import CommittedPlan, MovesView, PlanComparison, PlanInForce
from schemas.registry import message

_Nodes = Annotated[tuple[NodeView, ...], Items(10_000)]
_Profiles = Annotated[tuple[ProfileView, ...], Items(10_000)]


@message("control.refused")
@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorRefusal:
    """It can't be done, or what was asked can't be understood."""

    reason: Line = about("Why not, in one line that says what to do.")


@message("control.nodes.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodesReply:
    """Every node that was here since the orchestrator started."""

    nodes: _Nodes = about("The nodes by name.")


@message("control.plan.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class PlanReply(PlanInForce):
    """The plan in force: that of the first pipeline, and those of all."""

    pipelines: Annotated[tuple[PlanInForce, ...], Items(1_000)] = about("The plans of all pipelines.")
    constraints: PlanConstraints = about("What every plan has to respect.", default=PlanConstraints())


@message("control.status.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class StatusReply:
    """How the service is."""

    pipeline: Name = about("The service's name, which is the first pipeline's.")
    state: Label = about("In a word or two.")
    reason: Prose = about("Why there is no plan, when there is none; else empty.")
    model: Name | None = about("The model that is served.")
    epoch: EpochText | None = about("The plan in force.")
    nodes: Count = about("Nodes that are here.")
    max_message_bytes: Bytes = about("The longest payload that the broker passes on, for all of them.")
    open_requests: Count = about("Requests that are being answered.")
    queued_requests: Count = about("Requests that wait.")
    tokens_dropped: Count = about("Tokens of another epoch, sender or position.")
    last_failure: Prose = about("Why the last plan that was given up was; else empty.")
    left_out: Prose = about("Nodes that are here but get no layers, and why; else empty.")
    generation: UnsignedInt32 = about("Grows with every start of the orchestrator.")
    progress: ProgressOfNodes = about("Nodes that fetch their part of the next plan.")
    moves: MovesView = about("Live moves of the first pipeline.")
    pipelines: Annotated[tuple[PipelineStatus, ...], Items(1_000)] = about("Every pipeline.")
    tool_format: ToolFormat | None = about(
        "How the model that is served writes calls of tools; left out where it takes none.", default=None
    )


@message("control.top.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class OverviewReply:
    """Pipelines and nodes at this moment."""

    pipelines: Annotated[tuple[PipelineAtWork, ...], Items(1_000)] = about("Pipelines that have nodes.")
    nodes: _Nodes = about("The nodes by name.")


@message("control.why.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionsReply:
    """Why layers moved or stayed."""

    pipelines: Annotated[tuple[PipelineDecisions, ...], Items(1_000)] = about("Pipelines that have nodes.")


@message("control.history.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryReply:
    """Plans that were in force."""

    plans: Annotated[tuple[CommittedPlan, ...], Items(MOST_HISTORY)] = about("The newest first.")


@message("control.events.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class EventsReply:
    """What happened lately."""

    events: Annotated[tuple[FleetEvent, ...], Items(MOST_EVENTS)] = about("The newest, the oldest of them first.")


@message("control.trace.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class StoryReply:
    """What became of a request, cause by cause; nothing of its text."""

    request: RequestId = about("The request.")
    ended: bool = about("Has its client been told the end?")
    left_out: Count = about("Entries of the middle that were dropped.")
    entries: Annotated[tuple[StoryView, ...], Items(MOST_STORY_ENTRIES)] = about("The oldest first.")


@message("control.preview.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewReply:
    """The best plan under constraints. Nothing was changed."""

    constraints: PlanConstraints = about("What it respects.")
    explanation: PlanExplanation = about("The plan, and why it is as it is.")
    profiles: _Profiles = about("The figures it rests on.")


@message("control.preview.no_plan")
@dataclass(frozen=True, kw_only=True, slots=True)
class NoPlanReply:
    """There is no plan under these constraints."""

    constraints: PlanConstraints = about("What it should have respected.")
    explanation: NoPlanExplanation = about("Why there is none.")
    profiles: _Profiles = about("The figures this rests on.")


@message("control.apply.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyReply:
    """A plan with the constraints is in force, and they are remembered."""

    changed: bool = about("Is it another plan than before?")


@message("control.replan.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReplanReply:
    """The plan was made anew."""

    changed: bool = about("Is it another plan than before?")


@message("control.rebalance.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class RebalanceReply:
    """The plans in force beside the best ones; with ``changed``, what came of it."""

    pipelines: Annotated[tuple[PlanComparison, ...], Items(1_000)] = about("Every pipeline that serves.")
    changed: bool | None = about("Were layers moved? Left out where nothing was to be done.", default=None)


@message("control.use_model.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class UseModelReply:
    """The model is served, and will be after a restart."""

    model: Name = about("The model.")


@message("control.drain.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class DrainReply:
    """How far a node is with giving up its layers."""

    node: Name = about("The node.")
    drained: Prose = about("Why it is given no layers; empty when it may have some.")
    holds: Annotated[tuple[Name, ...], Items(1_000)] = about("Pipelines whose layers it still holds.")
    stays: Prose = about("Why it is to keep them for now; else empty.")


@message("control.rename.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class RenameReply:
    """What people call a node from now on."""

    node: Name = about("The node.")
    label: NodeLabel = about("Its label, without spaces around it; empty: its name.")


OperatorReply = (
    OperatorRefusal
    | NodesReply
    | PlanReply
    | StatusReply
    | OverviewReply
    | DecisionsReply
    | HistoryReply
    | EventsReply
    | StoryReply
    | PreviewReply
    | NoPlanReply
    | ApplyReply
    | ReplanReply
    | RebalanceReply
    | UseModelReply
    | DrainReply
    | RenameReply
)
