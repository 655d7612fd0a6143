"""What ``linguabus top`` draws, line by line (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.text.figures import megabytes, progress_text
from orchestrator.text.table import table
from schemas.messages import FetchProgress, MoveUnderWay, NodeView, OverviewReply, PipelineAtWork, StageAtWork

STAGES = ("stage", "node", "units", "ms", "predicted", "rows", "queue")
NODES = ("node", "state", "battery", "C", "memory free", "CPU %", "rtt ms", "heard", "flags")
_CUT = "…"


def draw(said: OverviewReply, *, width: int | None = None, height: int | None = None) -> list[str]:
    """The view of one moment; lines are cut to ``width``, the last ones are left out where ``height`` is too small."""
    lines: list[str] = []
    for pipeline in said.pipelines:
        lines += [*_pipeline(pipeline), ""]
    lines += table(NODES, [_node(node) for node in said.nodes]).splitlines() if said.nodes else ["no nodes yet"]
    if width is not None:
        lines = [line if len(line) <= width else line[: max(width - 1, 0)] + _CUT for line in lines]
    if height is not None and len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], f"({hidden} more lines: make the window higher)"[:width]]
    return lines


def _pipeline(pipeline: PipelineAtWork) -> list[str]:
    if pipeline.epoch is None:
        return [f"{pipeline.pipeline}: {pipeline.state}; {pipeline.reason}"]
    predicted = f"{pipeline.predicted_tokens_per_s:.1f} predicted for one request"
    waiting = f", {pipeline.queued_requests} waiting" if pipeline.queued_requests else ""
    requests = f"{pipeline.open_requests} of {pipeline.slots} requests{waiting}"
    lines = [
        f"{pipeline.pipeline}: {pipeline.model}, epoch {pipeline.epoch}, {pipeline.state}",
        f"{pipeline.tokens_per_s:.1f} tokens/s ({predicted}), {requests}",
    ]
    if pipeline.move:
        lines.append(_move(pipeline.move))
    lines += [f"{node} fetches its part: {_share(done)}" for node, done in pipeline.progress.items()]
    if pipeline.reason:
        lines.append(f"stays: {pipeline.reason}")
    return [*lines, *table(STAGES, [_stage(stage) for stage in pipeline.stages]).splitlines()]


def _move(move: MoveUnderWay) -> str:
    copied = f", {megabytes(move.copied_bytes, 1)} of KV rows copied" if move.mode == "copy" else ""
    waits = f", waits for {', '.join(move.waits_for)}" if move.waits_for else ""
    return f"moving to epoch {move.to_epoch}: {move.units}, {move.phase}{copied}{waits}"


def _share(done: FetchProgress) -> str:
    return progress_text(done.done_bytes, done.total_bytes)


def _stage(stage: StageAtWork) -> tuple[str, ...]:
    return (
        str(stage.stage),
        stage.node,
        stage.units,
        _known(stage.step_ms, "{:.2f}"),
        f"{stage.predicted_ms:.2f}",
        _known(stage.rows, "{:.1f}"),
        _known(stage.queue, "{:d}"),
    )


def _node(node: NodeView) -> tuple[str, ...]:
    hottest_c = node.temperature_c if node.battery_temperature_c is None else node.battery_temperature_c
    return (
        f"{node.node} ({node.label})" if node.label else node.node,
        node.state,
        _battery(node),
        _known(hottest_c, "{:.0f}"),
        "-" if node.available_bytes is None else megabytes(node.available_bytes),
        _known(node.cpu_percent, "{:.0f}"),
        _known(node.rtt_ms, "{:.1f}"),
        f"{node.heard_s_ago:.0f} s ago",
        "; ".join(_flags(node)),
    )


def _battery(node: NodeView) -> str:
    if node.battery_percent is None:
        return "-"
    rates = node.battery_serving_percent_per_hour, node.battery_idle_percent_per_hour
    trend = next((rate for rate in rates if rate is not None), None)
    moving = "" if trend is None else f" {trend:+.0f}/h"
    return f"{node.battery_percent:.0f} %{'+' if node.charging else ''}{moving}"


def _flags(node: NodeView) -> Sequence[str]:
    drained = [f"no layers: {node.drained}"] if node.drained else []
    odd = [f"not believed: {'; '.join(node.flags)}"] if node.flags else []
    slowed = [f"counts {node.cost_factor:g} times"] if node.cost_factor != 1.0 else []
    reason = [node.reason] if node.reason else []
    return [*reason, *drained, *odd, *slowed]


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
