"""Two plans of the history side by side (pure)."""

from __future__ import annotations

from typing import Any

from orchestrator.text.figures import megabytes
from orchestrator.text.table import table
from schemas.messages import PlanView
from schemas.units_text import describe_units

SETTINGS = ("model", "objective", "context_tokens", "slots", "wire_dtype", "kv_dtype", "kv_fp16_blocks", "draft")
FIGURES = (
    ("time per token", "predicted_decode_ms", "ms"),
    ("one stream", "predicted_tokens_per_s", "tokens/s"),
    ("many streams", "predicted_tokens_per_s_many", "tokens/s"),
    ("first token", "predicted_ttft_ms", "ms"),
)


def changes(before: PlanView, after: PlanView) -> dict[str, Any]:
    """What nodes take over and give up from one plan to another, and how the predictions differ; JSON-able."""
    had, gets = _units(before), _units(after)
    disk = {stage.node: stage.stored_bytes for stage in before.stages}
    disk_after = {stage.node: stage.stored_bytes for stage in after.stages}
    return {
        "before": before.epoch,
        "after": after.epoch,
        "nodes": [
            {
                "node": node,
                "takes_over": sorted(gets.get(node, set()) - had.get(node, set())),
                "gives_up": sorted(had.get(node, set()) - gets.get(node, set())),
                "stored_bytes_before": disk.get(node, 0),
                "stored_bytes_after": disk_after.get(node, 0),
            }
            for node in dict.fromkeys([*gets, *had])
        ],
        "figures": {key: [getattr(before, key), getattr(after, key)] for _, key, _ in FIGURES},
        "unit_count": after.unit_count,
        "settings": {
            key: [getattr(before, key), getattr(after, key)]
            for key in SETTINGS
            if getattr(before, key) != getattr(after, key)
        },
    }


def _units(plan: PlanView) -> dict[str, set[int]]:
    units: dict[str, set[int]] = {}
    for stage in plan.stages:
        units.setdefault(stage.node, set()).update(range(stage.start, stage.stop))
    return units


def describe_changes(difference: dict[str, Any]) -> str:
    """The difference for people."""
    moved = [node for node in difference["nodes"] if node["takes_over"] or node["gives_up"]]
    lines = [f"{key}: {old} -> {new}" for key, (old, new) in difference["settings"].items()]
    if moved:
        count = difference["unit_count"]
        rows = [
            (
                node["node"],
                _said(node["takes_over"], count) or "-",
                _said(node["gives_up"], count) or "-",
                f"{megabytes(node['stored_bytes_before'])} -> {megabytes(node['stored_bytes_after'])}",
            )
            for node in moved
        ]
        lines.append(table(("node", "takes over", "gives up", "on disk"), rows))
    else:
        lines.append("Every node keeps its units.")
    for name, key, unit in FIGURES:
        old, new = difference["figures"][key]
        lines.append(f"{name}: {old:.1f} -> {new:.1f} {unit}")
    return "\n".join(lines)


def _said(units: list[int], unit_count: int) -> str:
    """Units as ranges for people."""
    ranges: list[list[int]] = []
    for unit in units:
        if ranges and unit == ranges[-1][1]:
            ranges[-1][1] = unit + 1
        else:
            ranges.append([unit, unit + 1])
    return ", ".join(describe_units(start, stop, unit_count) for start, stop in ranges)
