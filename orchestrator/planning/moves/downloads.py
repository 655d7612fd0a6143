"""Downloads: what nodes have to fetch to go from one plan to another (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Standby


def downloads(
    problem: Problem, old: Sequence[Stage], new: Sequence[Stage], standby: Sequence[Standby] = ()
) -> dict[str, int]:
    """Bytes by node of both plans, those of the new one first; what a node has on standby it need not fetch."""
    nodes = dict.fromkeys(stage.node for stage in (*new, *old))
    return {node: _missing_bytes(problem, _units((*old, *standby), node), _units(new, node)) for node in nodes}


def _units(held: Iterable[Stage | Standby], node: str) -> set[int]:
    return {unit for one in held if one.node == node for unit in range(one.start, one.stop)}


def _missing_bytes(problem: Problem, here: set[int], wanted: set[int]) -> int:
    """Blobs of the wanted units; an end whose tied twin is there costs only the difference."""
    held, total = set(here), 0
    for unit in sorted(wanted - here):
        total += problem.blob_bytes(unit, beside=held)
        held.add(unit)
    return total
