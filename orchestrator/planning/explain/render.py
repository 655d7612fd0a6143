"""The explanation of a plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.text.figures import age_text, size_text
from orchestrator.text.table import table
from schemas.messages import NoPlanExplanation, PlanExplanation, ProfileView


def as_text(said: PlanExplanation | NoPlanExplanation) -> str:
    """The explanation of a plan, or of why there is none."""
    if isinstance(said, NoPlanExplanation):
        lines = [f"No plan: {said.reason}.", f"Smallest fix: {said.smallest_fix}."]
        return "\n".join(lines + [f"  or: {fix}" for fix in said.fixes[1:]])
    parts = [_headline(said), _stages(said), _totals(said), _compared(said), _devices(said)]
    return "\n\n".join(part for part in parts if part)


def profiles_text(profiles: Sequence[ProfileView]) -> str:
    """How old and how steady each device's figures are; the spread is that of the middle half of its runs."""
    rows = []
    for one in profiles:
        age = "not measured" if one.age_s is None else age_text(one.age_s)
        blocks = [_known(figure, "{:.3f}") for figure in (one.block_ms, one.block_spread_ms)]
        hops = [_known(figure, "{:.2f}") for figure in (one.hop_ms, one.hop_spread_ms)]
        rows.append([one.node, age, *blocks, *hops, _known(one.drift, "{:.2f} x")])
    header = ["figures of", "age", "ms/block", "spread", "hop ms", "spread", "observed"]
    return table(header, rows, right=frozenset({2, 3, 4, 5, 6}))


def _known(figure: float | None, form: str) -> str:
    return "" if figure is None else form.format(figure)


def _headline(said: PlanExplanation) -> str:
    nodes = len(said.nodes)
    proof = "proven optimal" if said.status == "optimal" else f"within {100 * said.gap:.1f} % of the optimum"
    if said.solver_gap > 0:
        proof += f" ({said.solver}; the MILP solver stopped at a gap of {100 * said.solver_gap:.1f} %)"
    else:
        proof += f" ({said.solver}, {said.solve_ms:.0f} ms)"
    stages = len(said.stages)
    note = f"\n{said.solver_note}" if said.solver_note else ""
    return (
        f"Plan for {said.objective}: {stages} stage{'s' * (stages > 1)} on {nodes} node{'s' * (nodes > 1)}, {proof}"
        f"{note}"
    )


def _stages(said: PlanExplanation) -> str:
    nodes = {node.node: node for node in said.nodes}
    rows = []
    for stage in said.stages:
        node = nodes[stage.node]
        memory = f"{size_text(node.memory_bytes)} of {size_text(node.memory_limit_bytes)}"
        cells = [str(stage.stage), stage.node, stage.units]
        cells += [f"{figure:.2f}" for figure in (stage.decode_ms, stage.hop_ms, stage.prefill_ms)]
        rows.append([*cells, memory, "; ".join(kept.units for kept in node.standby)])
    header = ["stage", "node", "units", "ms/token", "hop ms", "prefill ms", "memory", "standby"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table(header, rows, right=frozenset({3, 4, 5}))


def _totals(said: PlanExplanation) -> str:
    figures = said.predicted
    streams = "many streams" if figures.streams is None else f"{figures.streams} streams"
    one = (
        f"one stream: {figures.decode_ms:.1f} ms per token, {figures.tokens_per_s:.1f} tokens/s; "
        f"first token after {figures.ttft_ms:.0f} ms for a prompt of {figures.prompt_tokens} tokens"
    )
    many = (
        f"{streams}: {figures.tokens_per_s_many:.1f} tokens/s; "
        f"the bottleneck is {figures.bottleneck_node} with {figures.bottleneck_ms:.1f} ms per token"
    )
    return "\n".join([one, many, *said.why])


def _compared(said: PlanExplanation) -> str:
    rows = []
    for plan in said.compared:
        slower = "" if plan.times_slower is None else f"{plan.times_slower:.2f} x"
        note = plan.nodes[0] if len(plan.nodes) == 1 else f"{len(plan.nodes)} nodes"
        if not plan.allowed:
            note += f"; not possible: {plan.wrong[0]}"
        cells = [f"{figure:.1f}" for figure in (plan.decode_ms, plan.tokens_per_s, plan.tokens_per_s_many)]
        rows.append([plan.name, *cells, slower, note])
    header = ["compared", "ms/token", "tokens/s", "many streams", "cost", ""]
    return table(header, rows, right=frozenset({1, 2, 3, 4})) if rows else ""


def _devices(said: PlanExplanation) -> str:
    rows = [[device.node, device.role, device.says] for device in said.devices]
    return table(["device", "role", ""], rows)
