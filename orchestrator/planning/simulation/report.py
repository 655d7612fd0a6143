"""The report of a simulation: what it showed, beside what the plan had predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.planning.percentile import median_and_p95
from orchestrator.planning.simulation.scenario import Happening, Record, Workload
from orchestrator.text.table import table

SLICES = 12
BUSIEST_SHOWN = 10


@dataclass(frozen=True)
class NodeReport:
    """The report of one node: how busy it was (share of the time), and the longest its queue got."""

    node: str
    busy_share: float
    longest_queue: int


@dataclass(frozen=True)
class Report:
    """Figures after the warm-up. `timeline` is tokens per second over equal slices of the whole run."""

    duration_s: float
    pipelines: int
    tokens: int
    tokens_per_s: float
    predicted_tokens_per_s: float
    requests_finished: int
    ttft_ms: tuple[float, float]
    """Median and 95th percentile."""
    token_ms: tuple[float, float]
    nodes: tuple[NodeReport, ...]
    timeline: tuple[float, ...]
    diary: tuple[Happening, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(record: Record, workload: Workload, pipelines: int, predicted_tokens_per_s: float) -> Report:
    """Count a finished run."""
    counted_s = workload.duration_s - workload.warmup_s
    slices = [0] * SLICES
    for time_s in record.token_times_s:
        slices[min(SLICES - 1, int(time_s / workload.duration_s * SLICES))] += 1
    nodes = sorted(record.busy_s.items(), key=lambda item: (-item[1], item[0]))
    return Report(
        duration_s=workload.duration_s,
        pipelines=pipelines,
        tokens=len(record.token_times_s),
        tokens_per_s=len(record.token_times_s) / counted_s,
        predicted_tokens_per_s=predicted_tokens_per_s,
        requests_finished=record.finished,
        ttft_ms=_spread_ms(record.ttft_s),
        token_ms=_spread_ms(record.token_gap_s),
        nodes=tuple(
            NodeReport(name, min(1.0, busy_s / workload.duration_s), record.longest_queue.get(name, 0))
            for name, busy_s in nodes
        ),
        timeline=tuple(count * SLICES / workload.duration_s for count in slices),
        diary=tuple(record.diary),
    )


def _spread_ms(times_s: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile; zeros when there is nothing to count."""
    median_s, p95_s = median_and_p95(times_s) if times_s else (0.0, 0.0)
    return 1e3 * median_s, 1e3 * p95_s


def report_text(report: Report) -> str:
    """The report for people."""
    where = f"{len(report.nodes)} nodes in {report.pipelines} pipeline{'s' * (report.pipelines != 1)}"
    lines = [
        f"simulated {report.duration_s:g} s on {where}: {report.tokens} tokens, {report.requests_finished} answers",
        f"tokens/s: {report.tokens_per_s:.1f}, predicted {report.predicted_tokens_per_s:.1f} for decode alone",
        f"first token: median {report.ttft_ms[0]:.0f} ms, 95 % within {report.ttft_ms[1]:.0f} ms",
        f"time per token: median {report.token_ms[0]:.1f} ms, 95 % within {report.token_ms[1]:.1f} ms",
        "tokens/s over time: " + " ".join(f"{rate:.0f}" for rate in report.timeline),
    ]
    lines += [f"  {happening.at_s:8.1f} s  {happening.text}" for happening in report.diary]
    rows = [[node.node, f"{100 * node.busy_share:.0f} %", str(node.longest_queue)] for node in report.nodes]
    shown = table(["busiest", "busy", "longest queue"], rows[:BUSIEST_SHOWN], right=frozenset({1, 2})) if rows else ""
    return "\n".join([*lines, "", shown]) if shown else "\n".join(lines)
