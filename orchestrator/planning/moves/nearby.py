"""Nearby plans, close to the one that runs: a boundary moved by a few units, a node in the place of another.

They change less than the best plan does, and so may gain more in the end, or fit beside the running one where the best
does not. For the balancer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.planning.cost import check, decode_s, holdings, load_s, objective_value, predict
from orchestrator.planning.problem import Objective, Problem, Stage

SHIFTS = (1, 2, 4)
SPARES = 3
"""So many idle devices are tried, the quickest."""


def nearby(problem: Problem, stages: Sequence[Stage]) -> Iterator[tuple[Stage, ...]]:
    """Allowed plans with one boundary shifted (no stage is emptied), or with one node's stages on an idle one."""
    yield from (plan for plan in _shifted(stages) if not check(problem, plan))
    yield from (plan for plan in _replaced(problem, stages) if not check(problem, plan))


def _shifted(stages: Sequence[Stage]) -> Iterator[tuple[Stage, ...]]:
    for right in range(1, len(stages)):
        left = right - 1
        for shift in (sign * size for size in SHIFTS for sign in (1, -1)):
            cut = stages[right].start + shift
            if not stages[left].start < cut < stages[right].stop:
                continue
            moved = (replace(stages[left], stop=cut), replace(stages[right], start=cut))
            yield (*stages[:left], *moved, *stages[right + 1 :])


def _replaced(problem: Problem, stages: Sequence[Stage]) -> Iterator[tuple[Stage, ...]]:
    busy = dict.fromkeys(stage.node for stage in stages)
    idle = [device for device in problem.eligible if device.name not in busy]
    for device in sorted(idle, key=lambda device: sum(device.decode_s))[:SPARES]:
        for node in busy:
            yield tuple(replace(stage, node=device.name) if stage.node == node else stage for stage in stages)


def value_s(problem: Problem, stages: Sequence[Stage]) -> float:
    """The seconds that the problem's objective minimises, counted without the rest of a prediction where that is
    possible."""
    held = holdings(problem, stages)
    devices = problem.device_by_name
    if problem.objective is Objective.LATENCY:
        return decode_s(devices, held)
    if problem.objective is Objective.BALANCED or (problem.objective is Objective.THROUGHPUT and not problem.streams):
        return max(load_s(devices[node], mine, len(held) > 1) for node, mine in held.items())
    return objective_value(problem, predict(problem, stages), stages)
