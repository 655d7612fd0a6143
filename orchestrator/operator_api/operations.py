"""Commands that are answered at once, about nodes and what goes on (pure)."""

from __future__ import annotations

from typing import Any

from orchestrator.control_plane import ControlPlane
from orchestrator.effects import Effect, SaveDrained, TellEvents
from orchestrator.operator_api.event_log import KEPT
from orchestrator.operator_api.overview import overview
from orchestrator.operator_api.replies import refuse, reply
from orchestrator.pipelines.pipeline import Pipeline
from schemas.messages import ControlRequest

OPERATIONS = ("drain", "events", "top", "why")


def handle(command: ControlRequest, plane: ControlPlane, now_s: float) -> list[Effect]:
    """Answer one of ``OPERATIONS``."""
    match command.operation:
        case "drain":
            return _drain(command, plane, now_s)
        case "events":
            return [_events(command)]
        case "why":
            return [reply(command, {"pipelines": [_why(pipeline, now_s) for pipeline in plane.serving()]})]
    return [reply(command, overview(plane, now_s))]


def _drain(command: ControlRequest, plane: ControlPlane, now_s: float) -> list[Effect]:
    """Asked again it changes nothing and says how far it is: what the node still holds, and why if it is to stay."""
    node, undo = command.arguments.get("node"), command.arguments.get("undo", False)
    if not isinstance(node, str) or not isinstance(undo, bool):
        return [refuse(command, "drain needs the argument node: a node's name")]
    fleet = plane.fleet
    if node not in fleet.nodes and node not in fleet.drained:
        return [refuse(command, f"there is no node {node[:64]}: see linguabus nodes")]
    effects: list[Effect] = []
    if undo is (node in fleet.drained):
        effects = [SaveDrained(node, not undo), *plane.drain(node, not undo, now_s)]
    holding = [pipeline for pipeline in plane.serving() if node in pipeline.nodes_in_use()]
    stays = [pipeline.report.why_it_stays for pipeline in holding]
    known = fleet.nodes.get(node)
    loaded = {stage.pipeline for stage in known.heartbeat.stages} if known and known.usable and known.heartbeat else ()
    held = sorted({pipeline.name for pipeline in holding} | set(loaded))
    return [
        *effects,
        reply(command, {"node": node, "drained": fleet.why_drained(node), "holds": held, "stays": "; ".join(stays)}),
    ]


def _why(pipeline: Pipeline, now_s: float) -> dict[str, Any]:
    """A pipeline's decisions, oldest first, with their ages instead of times."""
    decisions = [
        {
            **{key: value for key, value in entry.items() if key not in ("first_s", "last_s")},
            "first_s_ago": round(now_s - entry["first_s"], 3),
            "last_s_ago": round(now_s - entry["last_s"], 3),
        }
        for entry in sorted(pipeline.report.decisions.view(), key=lambda entry: entry["last_s"])
    ]
    epoch = str(pipeline.active.plan.epoch) if pipeline.active else None
    return {"pipeline": pipeline.name, "epoch": epoch, "stays": pipeline.report.why_it_stays, "decisions": decisions}


def _events(command: ControlRequest) -> Effect:
    limit = command.arguments.get("limit", KEPT)
    if not isinstance(limit, int) or not 1 <= limit <= KEPT:
        return refuse(command, f"limit: use a number from 1 to {KEPT}")
    return TellEvents(command, limit)
