"""The fleet as the page draws it, and what has changed between two moments (pure).

A picture is JSON of objects by name, so that a change is a JSON merge patch (RFC 7386): what is null in it is gone.
"""

from __future__ import annotations

from typing import Any

from schemas.contract import dump
from schemas.messages import NodeView, OverviewReply, PipelineAtWork, PlanOnItsWay, PlanReply, StatusReply

Picture = dict[str, Any]

_OF_NODE = (
    "label", "state", "reason", "package_version", "platform", "threads", "memory_bytes", "battery_percent", "charging",
    "leaving", "drained", "flags", "cost_factor", "battery_serving_percent_per_hour", "battery_idle_percent_per_hour",
)  # fmt: skip
_OF_PIPELINE = (
    "state", "reason", "model", "epoch", "open_requests", "queued_requests", "slots", "progress", "move",
)  # fmt: skip
_MB = 10**6


def picture(status: StatusReply, overview: OverviewReply, plan: PlanReply | None) -> Picture:
    """The picture of a moment; ``plan``: the plans in force, where they are known."""
    plans = {one.pipeline: one for one in plan.pipelines} if plan else {}
    pipelines = {}
    for one in overview.pipelines:
        known = plans.get(one.pipeline)
        shown = pipelines[one.pipeline] = _pipeline(one)
        if known and str(known.epoch) == str(one.epoch):
            shown["unit_count"] = known.unit_count
            shown["objective"] = known.objective
            shown["draft"] = known.draft
            shown["next"] = _next(known.next)
    service = {
        name: getattr(status, name) for name in ("state", "reason", "model", "nodes", "last_failure", "left_out")
    }
    drawn = {
        "service": service,
        "pipelines": pipelines,
        "nodes": {one.node: _node(one) for one in overview.nodes},
    }
    kept: Picture = _known(drawn)
    return kept


def away(reason: str) -> Picture:
    """The picture while nobody tells how the fleet is."""
    return {"service": {"state": "away", "reason": reason}}


def _pipeline(pipeline: PipelineAtWork) -> Picture:
    told = dump(pipeline)
    shown = {name: told[name] for name in _OF_PIPELINE if name in told}
    shown["tokens_per_s"] = round(pipeline.tokens_per_s, 1)
    for name in ("predicted_tokens_per_s", "predicted_tokens_per_s_many"):
        shown[name] = _rounded(getattr(pipeline, name), 1)
    shown["stages"] = {
        str(stage.stage): {
            "node": stage.node,
            "start": stage.start,
            "stop": stage.stop,
            "units": stage.units,
            "predicted_ms": _rounded(stage.predicted_ms, 2),
            "step_ms": _rounded(stage.step_ms, 1),
            "rows": _rounded(stage.rows, 1),
            "queue": stage.queue,
        }
        for stage in pipeline.stages
    }
    return shown


def _node(node: NodeView) -> Picture:
    """What is shown of a node, as coarse as people look at it, so that it seldom changes."""
    told = dump(node)
    shown: Picture = {name: told[name] for name in _OF_NODE if name in told}
    shown["battery_percent"] = _rounded(node.battery_percent, 0)
    hottest_c = node.temperature_c if node.battery_temperature_c is None else node.battery_temperature_c
    shown["temperature_c"] = _rounded(hottest_c, 0)
    shown["cpu_percent"] = None if node.cpu_percent is None else 5 * round(node.cpu_percent / 5)
    shown["rtt_ms"] = _rounded(node.rtt_ms, 0)
    shown["rss_mb"] = None if node.rss_bytes is None else node.rss_bytes // _MB
    return shown


def _next(plan: PlanOnItsWay | None) -> Picture | None:
    if plan is None:
        return None
    stages = [{"node": one.node, "start": one.start, "stop": one.stop, "units": one.units} for one in plan.stages]
    return {"state": plan.state, "epoch": str(plan.epoch), "model": plan.model, "stages": stages}


def _rounded(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    return round(value, digits) if digits else round(value)


def _known(value: Any) -> Any:
    """Without members that are null, empty text or empty lists: a merge patch can't say the first."""
    if not isinstance(value, dict):
        return value
    return {name: _known(one) for name, one in value.items() if one is not None and one != "" and one != []}


def changes(before: Picture, after: Picture) -> Picture:
    """The merge patch that makes ``after`` of ``before``; empty where nothing has changed."""
    patch: Picture = dict.fromkeys(before.keys() - after.keys())
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := changes(old, value):
                patch[name] = inner
        elif value != old or name not in before:
            patch[name] = value
    return patch
