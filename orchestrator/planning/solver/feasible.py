"""Feasibility: whether a problem has any plan."""

from __future__ import annotations

import math

from orchestrator.planning.problem import Problem
from orchestrator.planning.solver.ordering import natural_engine
from orchestrator.planning.solver.runform import RunForm
from orchestrator.planning.solver.search import RingEngine, single_plans
from orchestrator.planning.solver.sequence import SequenceEngine


def is_feasible(problem: Problem) -> bool:
    """Whether any plan exists (on large uneven chains: whether one is found)."""
    if not problem.eligible:
        return False
    if single_plans(problem):
        return True
    if RunForm.applies(problem):
        return RunForm(problem).fits()
    exact = SequenceEngine(problem)
    engine: RingEngine = exact if exact.affordable else natural_engine(problem)
    return engine.fits(math.inf)
