"""`explain`'s data as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.text.figures import age_text, size_text
from orchestrator.text.table import table


def as_text(said: dict[str, Any]) -> str:
    """The explanation of a plan, or of why there is none."""
    if not said["feasible"]:
        lines = [f"No plan: {said['reason']}.", f"Smallest fix: {said['smallest_fix']}."]
        return "\n".join(lines + [f"  or: {fix}" for fix in said["fixes"][1:]])
    parts = [_headline(said), _stages(said), _totals(said), _compared(said), _devices(said)]
    return "\n\n".join(part for part in parts if part)


def profiles_text(profiles: Sequence[dict[str, Any]]) -> str:
    """How old and how steady each device's figures are; the spread is that of the middle half of its runs."""
    rows = []
    for one in profiles:
        if not one["measured"]:
            rows.append([one["node"], "not measured", "", "", f"{one['hop_ms']:.2f}", "", ""])
            continue
        cells = [f"{one[key]:.3f}" for key in ("block_ms", "block_spread_ms")]
        cells += [f"{one[key]:.2f}" for key in ("hop_ms", "hop_spread_ms")]
        rows.append([one["node"], age_text(one["age_s"]), *cells, f"{one['drift']:.2f} x"])
    header = ["figures of", "age", "ms/block", "spread", "hop ms", "spread", "observed"]
    return table(header, rows, right=frozenset({2, 3, 4, 5, 6}))


def _headline(said: dict[str, Any]) -> str:
    nodes = len(said["nodes"])
    proof = "proven optimal" if said["status"] == "optimal" else f"within {100 * said['gap']:.1f} % of the optimum"
    if said["solver_gap"] > 0:
        proof += f" ({said['solver']}; the MILP solver stopped at a gap of {100 * said['solver_gap']:.1f} %)"
    else:
        proof += f" ({said['solver']}, {said['solve_ms']:.0f} ms)"
    stages = len(said["stages"])
    note = f"\n{said['solver_note']}" if said.get("solver_note") else ""
    return (
        f"Plan for {said['objective']}: {stages} stage{'s' * (stages > 1)} on {nodes} node{'s' * (nodes > 1)}, {proof}"
        f"{note}"
    )


def _stages(said: dict[str, Any]) -> str:
    nodes = {node["node"]: node for node in said["nodes"]}
    rows = []
    for stage in said["stages"]:
        node = nodes[stage["node"]]
        memory = f"{size_text(node['memory_bytes'])} of {size_text(node['memory_limit_bytes'])}"
        cells = [str(stage["stage"]), stage["node"], stage["units"]]
        cells += [f"{stage[key]:.2f}" for key in ("decode_ms", "hop_ms", "prefill_ms")]
        rows.append([*cells, memory, "; ".join(kept["units"] for kept in node["standby"])])
    header = ["stage", "node", "units", "ms/token", "hop ms", "prefill ms", "memory", "standby"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows, right=frozenset({3, 4, 5}))


def _totals(said: dict[str, Any]) -> str:
    figures = said["predicted"]
    streams = "many streams" if figures["streams"] is None else f"{figures['streams']} streams"
    one = (
        f"one stream: {figures['decode_ms']:.1f} ms per token, {figures['tokens_per_s']:.1f} tokens/s; "
        f"first token after {figures['ttft_ms']:.0f} ms for a prompt of {figures['prompt_tokens']} tokens"
    )
    many = (
        f"{streams}: {figures['tokens_per_s_many']:.1f} tokens/s; "
        f"the bottleneck is {figures['bottleneck_node']} with {figures['bottleneck_ms']:.1f} ms per token"
    )
    return "\n".join([one, many, *said["why"]])


def _compared(said: dict[str, Any]) -> str:
    rows = []
    for plan in said["compared"]:
        slower = "" if plan["times_slower"] is None else f"{plan['times_slower']:.2f} x"
        note = plan["nodes"][0] if len(plan["nodes"]) == 1 else f"{len(plan['nodes'])} nodes"
        if not plan["allowed"]:
            note += f"; not possible: {plan['wrong'][0]}"
        cells = [f"{plan[key]:.1f}" for key in ("decode_ms", "tokens_per_s", "tokens_per_s_many")]
        rows.append([plan["name"], *cells, slower, note])
    header = ["compared", "ms/token", "tokens/s", "many streams", "cost", ""]
    return table(header, rows, right=frozenset({1, 2, 3, 4})) if rows else ""


def _devices(said: dict[str, Any]) -> str:
    rows = [[device["node"], device["role"], device["says"]] for device in said["devices"]]
    return table(["device", "role", ""], rows)
