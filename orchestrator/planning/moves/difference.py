"""Two plans side by side: what moves, what that downloads, and what it changes. For `plan diff` and the balancer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planning.cost import predict, size_text
from orchestrator.planning.explain.explain import units_text
from orchestrator.planning.explain.render import table
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Prediction, Standby


@dataclass(frozen=True)
class NodeChange:
    """What one node takes over and gives up. `download_bytes` leaves out what it already has on standby."""

    node: str
    gains: tuple[int, ...]
    gives_up: tuple[int, ...]
    download_bytes: int
    kv_bytes_per_token: int
    """KV cache of the gained units that has to move, per token of context and slot."""


@dataclass(frozen=True)
class Difference:
    """From one plan to another; `before` is None when a node of the old plan is gone."""

    changes: tuple[NodeChange, ...]
    before: Prediction | None
    after: Prediction

    @property
    def moved_units(self) -> int:
        return sum(len(change.gains) for change in self.changes)

    @property
    def download_bytes(self) -> int:
        return sum(change.download_bytes for change in self.changes)

    @property
    def kv_bytes_per_token(self) -> int:
        return sum(change.kv_bytes_per_token for change in self.changes)


def diff(problem: Problem, old: Sequence[Stage], new: Sequence[Stage], standby: Sequence[Standby] = ()) -> Difference:
    """What it takes to go from one plan to the other; nodes in the order of the new plan, then of the old."""
    nodes = dict.fromkeys([stage.node for stage in new] + [stage.node for stage in old])
    changes = []
    for node in nodes:
        had, gets = _units(old, node), _units(new, node)
        ready = {unit for one in standby if one.node == node for unit in range(one.start, one.stop)}
        gains = tuple(sorted(gets - had))
        changes.append(
            NodeChange(
                node=node,
                gains=gains,
                gives_up=tuple(sorted(had - gets)),
                download_bytes=_download_bytes(problem, had | ready, gains),
                kv_bytes_per_token=sum(problem.runs[problem.run_of_unit[unit]].kv_bytes_per_token for unit in gains),
            )
        )
    known = all(stage.node in problem.device_by_name for stage in old)
    return Difference(tuple(changes), predict(problem, old) if old and known else None, predict(problem, new))


def _units(stages: Sequence[Stage], node: str) -> set[int]:
    return {unit for stage in stages if stage.node == node for unit in range(stage.start, stage.stop)}


def _download_bytes(problem: Problem, ready: set[int], gains: Sequence[int]) -> int:
    """Blobs to fetch for the gained units; an end whose tied twin is there costs only the difference."""
    ends = {0, problem.unit_count - 1}
    held, total = set(ready), 0
    for unit in gains:
        if unit in held:
            continue
        run = problem.runs[problem.run_of_unit[unit]]
        twin = unit in ends and bool(ends - {unit} & held)
        total += max(0, run.stored_bytes - (problem.tied_stored_bytes if twin else 0))
        held.add(unit)
    return total


def diff_text(problem: Problem, difference: Difference) -> str:
    """The difference for people."""
    rows = [
        [
            change.node,
            _ranges(problem, change.gains),
            _ranges(problem, change.gives_up),
            size_text(change.download_bytes) if change.download_bytes else "",
        ]
        for change in difference.changes
        if change.gains or change.gives_up
    ]
    if not rows:
        return "The plans are the same."
    after, before = difference.after, difference.before
    lines = [table(["node", "takes over", "gives up", "download"], rows), ""]
    for name, key, scale, unit in (
        ("time per token", "decode_s", 1e3, "ms"),
        ("bottleneck", "bottleneck_s", 1e3, "ms"),
        ("first token", "ttft_s", 1e3, "ms"),
        ("many streams", "tokens_per_s_many", 1.0, "tokens/s"),
    ):
        then = "" if before is None else f"{getattr(before, key) * scale:.1f} -> "
        lines.append(f"{name}: {then}{getattr(after, key) * scale:.1f} {unit}")
    return "\n".join(lines)


def _ranges(problem: Problem, units: Sequence[int]) -> str:
    """Units as ranges for people."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][-1] + 1:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    return ", ".join(units_text(problem, run[0], run[-1] + 1) for run in runs)
