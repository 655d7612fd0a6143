"""The second solve: which units of its neighbours each node keeps ready, inside its spare storage and memory.

A standby range starts at the node's own boundary, so that boundary can move over it without a download, and a lost
neighbour's units are already there. Wanted is the most bytes of the chain that a second node holds:

    max  sum over units of   disk bytes x covered  +  WARM x resident bytes x warm  -  COPY x bytes of all copies

A unit counts once however many nodes hold it; `warm` units are also loaded, which needs memory besides disk. The
last term keeps a solver from filling disks with second copies that cover nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planning.errors import SolverFailed
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Standby
from orchestrator.planning.solver import pyomo_solver
from orchestrator.planning.standby import milp
from orchestrator.planning.standby.question import Reach, StandbyQuestion, question


@dataclass(frozen=True)
class StandbyPlan:
    """Standby ranges of a plan; `value_bytes` is the objective, `gap` what was not proven (0.0: optimal)."""

    standby: tuple[Standby, ...]
    value_bytes: float
    solver: str
    gap: float


def plan_standby(problem: Problem, stages: Sequence[Stage], *, disk_only: bool = False) -> StandbyPlan:
    """The standby ranges worth most for a plan, by MILP; by greedy growth where no solver works."""
    asked = question(problem, stages, disk_only=disk_only)
    if not asked.sides:
        return StandbyPlan((), 0.0, "none", 0.0)
    reaches, solver, gap = grow_greedily(asked), "greedy", 1.0
    proof = _proof(asked, problem.time_limit_s)
    if proof is not None:
        if (
            proof.reaches is not None
            and asked.fits(proof.reaches)
            and asked.value(proof.reaches) > asked.value(reaches)
        ):
            reaches = proof.reaches
        solver = proof.solver
        value = asked.value(reaches)
        gap = max(0.0, proof.bound_bytes / value - 1) if value > 0 else 0.0
    return StandbyPlan(_ranges(asked, reaches), asked.value(reaches), solver, gap if gap > 1e-6 else 0.0)


def _proof(asked: StandbyQuestion, time_limit_s: float) -> milp.StandbyProof | None:
    """The MILP's word; None where no solver works."""
    if pyomo_solver.solver_name() is None:
        return None
    try:
        return milp.best_standby(asked, time_limit_s)
    except SolverFailed:  # the log has the reason
        return None


def grow_greedily(asked: StandbyQuestion) -> tuple[Reach, ...]:
    """Grow one side by one unit at a time, whichever adds most value per byte, while anything adds value."""
    reaches = [Reach(0, 0)] * len(asked.sides)
    while True:
        best: tuple[float, int, Reach] | None = None
        now = asked.value(reaches)
        for index, reach in enumerate(reaches):
            for grown in (Reach(reach.cold + 1, reach.warm), Reach(reach.cold, reach.warm + 1)):
                trial = [*reaches[:index], grown, *reaches[index + 1 :]]
                if asked.fits(trial):
                    side = asked.sides[index]
                    took = side.disk_bytes[reach.cold] if grown.cold > reach.cold else side.resident_bytes[reach.warm]
                    gain = (asked.value(trial) - now) / max(took, 1)
                    if gain > 0 and (best is None or gain > best[0]):
                        best = (gain, index, grown)
        if best is None:
            return tuple(reaches)
        reaches[best[1]] = best[2]


def _ranges(asked: StandbyQuestion, reaches: Sequence[Reach]) -> tuple[Standby, ...]:
    ranges = []
    for side, reach in zip(asked.sides, reaches, strict=True):
        if reach.cold == 0:
            continue
        if side.leftwards:
            stop = side.units[0] + 1
            ranges.append(Standby(side.node, stop - reach.cold, stop, stop - reach.warm, stop))
        else:
            start = side.units[0]
            ranges.append(Standby(side.node, start, start + reach.cold, start, start + reach.warm))
    return tuple(ranges)
