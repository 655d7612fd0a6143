"""Plans in which every node has one stage (pure).

The planner may give the first and the last stage to the same node; nodes run one stage per epoch. Then the best plan
with different ends is looked for, by pinning them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from orchestrator.planning.problem import Pin, Problem
from orchestrator.planning.solution import Infeasible, Solution

MAX_ENDS = 6
"""Nodes tried as first and last: the fastest."""

Solve = Callable[[Problem], Solution | Infeasible]


def solve_single_stages(problem: Problem, solve: Solve, solve_quickly: Solve) -> Solution | Infeasible:
    """The best plan with at most one stage per node; ``solve_quickly`` is asked for each pair of ends."""
    found = solve(problem)
    if isinstance(found, Infeasible) or len(set(found.nodes)) == len(found.stages):
        return found
    by_speed = sorted(problem.eligible, key=lambda device: (sum(device.decode_s), device.name))
    candidates = [solve_quickly(replace(problem, devices=(device,))) for device in by_speed[:1]]
    for first, last in itertools.permutations([device.name for device in by_speed[:MAX_ENDS]], 2):
        ends = (Pin(first, 0, 1), Pin(last, problem.unit_count - 1, problem.unit_count))
        candidates.append(solve_quickly(replace(problem, constraints=replace(problem.constraints, pins=ends))))
    plans = [plan for plan in candidates if isinstance(plan, Solution) and len(set(plan.nodes)) == len(plan.stages)]
    if plans:
        return min(plans, key=lambda plan: plan.objective_value)
    untied = solve_quickly(replace(problem, tied_bytes=0, tied_disk_bytes=0))  # different ends can't share weights
    if isinstance(untied, Infeasible):
        return untied
    reason = f"the model fits only with both ends on {found.nodes[0]}, and a node runs one stage"
    return Infeasible(reason=reason, missing_bytes=0, smallest_fix="add a node, or give one more memory")
