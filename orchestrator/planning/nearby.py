"""Plans next to one that runs: a boundary moved by a few units. They change less than the best plan does, and so may
gain more in the end. For the balancer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.planning.cost import check, decode_s, holdings, load_s, objective_value, predict
from orchestrator.planning.problem import Objective, Problem, Stage

SHIFTS = (1, 2, 4)


def nearby(problem: Problem, stages: Sequence[Stage]) -> Iterator[tuple[Stage, ...]]:
    """Allowed plans with the same nodes in the same order and one boundary shifted; no stage is emptied."""
    for right in range(1, len(stages)):
        left = right - 1
        for shift in (sign * size for size in SHIFTS for sign in (1, -1)):
            cut = stages[right].start + shift
            if not stages[left].start < cut < stages[right].stop:
                continue
            moved = (replace(stages[left], stop=cut), replace(stages[right], start=cut))
            plan = (*stages[:left], *moved, *stages[right + 1 :])
            if not check(problem, plan):
                yield plan


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
