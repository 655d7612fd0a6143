"""Operations that are answered at once: what is there, what goes on, drains, what nodes are called (pure)."""

from __future__ import annotations

from typing import assert_never

from orchestrator.control_plane import ControlPlane
from orchestrator.effects import Asker, Effect, Note, SaveDrained, SaveLabel, TellEvents, TellHistory
from orchestrator.fleet.fleet import FleetState
from orchestrator.operator_api.overview import overview
from orchestrator.operator_api.replies import refuse, reply
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.pipeline_status import plan_in_force
from orchestrator.requests.story import KEPT_REQUESTS
from schemas.contract import members
from schemas.messages import (
    MOST_LABELS,
    DecisionsReply,
    DrainNode,
    DrainReply,
    NodesReply,
    PipelineDecisions,
    PlanReply,
    RenameNode,
    RenameReply,
    ShowDecisions,
    ShowEvents,
    ShowHistory,
    ShowNodes,
    ShowOverview,
    ShowPlan,
    ShowStatus,
    ShowStory,
    StoryReply,
    StoryView,
)
from schemas.names import unknown_node

Question = (
    ShowNodes
    | ShowPlan
    | ShowStatus
    | ShowOverview
    | ShowDecisions
    | ShowHistory
    | ShowEvents
    | ShowStory
    | DrainNode
    | RenameNode
)


def answer(asker: Asker, question: Question, plane: ControlPlane, now_s: float) -> list[Effect]:
    """Answer an operator's command."""
    match question:
        case ShowNodes():
            return [reply(asker, NodesReply(nodes=plane.nodes_view(now_s)))]
        case ShowPlan():
            return [_plan(asker, plane)]
        case ShowStatus():
            return [reply(asker, plane.status())]
        case ShowOverview():
            return [reply(asker, overview(plane, now_s))]
        case ShowDecisions():
            return [reply(asker, DecisionsReply(pipelines=tuple(_why(one, now_s) for one in plane.serving())))]
        case ShowHistory(limit=limit):
            return [TellHistory(asker, limit)]
        case ShowEvents(limit=limit):
            return [TellEvents(asker, limit)]
        case ShowStory():
            return [_story(asker, question, plane)]
        case DrainNode():
            return _drain(asker, question, plane, now_s)
        case RenameNode():
            return _rename(asker, question, plane.fleet)
    assert_never(question)


def _plan(asker: Asker, plane: ControlPlane) -> Effect:
    """Show the plan in force, or the one that was until now, and what goes on beside it; of all pipelines."""
    views = tuple(view for pipeline in plane.pipelines.all if (view := plan_in_force(pipeline, plane.fleet.nodes)))
    if not views:
        lead = plane.pipeline
        return refuse(asker, f"{lead.state()}, no plan yet" if lead.is_planning else lead.report.why_none.reason)
    first = next((view for view in views if view.in_force), views[0])
    return reply(asker, PlanReply(**members(first), pipelines=views, constraints=plane.pipeline.constraints))


def _drain(asker: Asker, drain: DrainNode, plane: ControlPlane, now_s: float) -> list[Effect]:
    """Drain a node, or undo that, and say how far it is: what the node still holds, and why if that is to stay.

    Asked again it changes nothing.
    """
    node, undo, fleet = drain.node, drain.undo, plane.fleet
    if unknown := unknown_node([node], fleet.names()):
        return [refuse(asker, unknown)]
    effects: list[Effect] = []
    if undo is (node in fleet.drained):
        effects = [SaveDrained(node, not undo), *plane.drain(node, not undo, now_s)]
    if undo:
        plane.forgive(node, now_s)
    holding = [pipeline for pipeline in plane.serving() if node in pipeline.nodes_in_use()]
    stays = [pipeline.report.why_it_stays for pipeline in holding]
    known = fleet.nodes.get(node)
    loaded = {stage.pipeline for stage in known.heartbeat.stages} if known and known.usable and known.heartbeat else ()
    held = sorted({pipeline.name for pipeline in holding} | set(loaded))
    said = DrainReply(node=node, drained=fleet.why_drained(node), holds=tuple(held), stays="; ".join(stays))
    return [*effects, reply(asker, said)]


def _rename(asker: Asker, rename: RenameNode, fleet: FleetState) -> list[Effect]:
    """Call a node something else where people see it; no two nodes may look the same."""
    node, label = rename.node, rename.label.strip()
    if unknown := unknown_node([node], fleet.names()):
        return [refuse(asker, unknown)]
    label = "" if label == node else label
    if other := fleet.called(label, but=node):
        return [refuse(asker, f"node {other} is called {label} already: call {node} something else")]
    if label and node not in fleet.labels and len(fleet.labels) >= MOST_LABELS:
        return [refuse(asker, f"{MOST_LABELS} nodes have labels, no more are kept: take the label of one away")]
    effects: list[Effect] = []
    if label != fleet.labels.get(node, ""):
        fleet.set_label(node, label)
        said = f"node {node} is called {label}" if label else f"node {node} is called by its name again"
        effects = [SaveLabel(node, label), Note(said, kind="renamed", node=node)]
    return [*effects, reply(asker, RenameReply(node=node, label=label))]


def _why(pipeline: Pipeline, now_s: float) -> PipelineDecisions:
    return PipelineDecisions(
        pipeline=pipeline.name,
        epoch=str(pipeline.active.plan.epoch) if pipeline.active else None,
        stays=pipeline.report.why_it_stays,
        decisions=pipeline.report.decisions.view(now_s),
    )


def _story(asker: Asker, question: ShowStory, plane: ControlPlane) -> Effect:
    """The chain of causes of a request, of the newest one unless another is named."""
    stories = plane.stories
    newest = stories.newest(1)
    story = stories.story(question.request) if question.request else newest[0] if newest else None
    if story is None:
        what = f"request {question.request} is not known" if question.request else "nobody has asked anything yet"
        return refuse(asker, f"{what}: the last {KEPT_REQUESTS} since the orchestrator's start are kept")
    began_s = story.entries[0].at_s
    entries = (StoryView(after_s=one.at_s - began_s, cause=one.cause, decisions=one.decisions) for one in story.entries)
    return reply(
        asker,
        StoryReply(request=story.request, ended=story.ended, left_out=story.left_out, entries=tuple(entries)),
    )
