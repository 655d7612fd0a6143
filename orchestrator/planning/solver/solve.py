"""`solve(problem)`: the best plan with its proof, or why there is none.

Two exact methods look at every problem in run form, sharing its figures and nothing else: the dynamic programme finds
the plan, and the MILP (GLPK, or HiGHS) has to confirm each claim that makes it the best. When the MILP's time is up
before it has, the plan still stands, proven by the dynamic programme, and `solver_gap` says what the MILP had left.
Without a MILP solver, or with one that does not work, the dynamic programme stands alone.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestrator.planning.cost import check, predict
from orchestrator.planning.errors import PlanningError, SolverFailed
from orchestrator.planning.problem import Objective, Problem, Stage
from orchestrator.planning.solution import Infeasible, Solution, Status
from orchestrator.planning.solver import milp, pyomo_solver
from orchestrator.planning.solver.infeasible import explain_infeasible
from orchestrator.planning.solver.ordering import improve_orders
from orchestrator.planning.solver.runform import RunForm
from orchestrator.planning.solver.search import (
    TIE,
    Candidate,
    Claim,
    RingEngine,
    RingPlan,
    candidate,
    search,
    single_plans,
)
from orchestrator.planning.solver.sequence import SequenceEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFormEngine(RingEngine):
    """The ring engine of chains in run form."""

    form: RunForm

    def limits_s(self) -> list[float]:
        return self.form.limits_s()

    def fits(self, limit_s: float) -> bool:
        return self.form.fits(limit_s)

    def cheapest_ring(self, limit_s: float) -> RingPlan | None:
        plan = self.form.cheapest(limit_s)
        return None if plan is None else RingPlan(plan.value_s, self.form.stages(plan.shares))


def solve(problem: Problem, *, prove: bool = True) -> Solution | Infeasible:
    """The best plan for the problem's objective. The same problem gives the same plan.

    With `prove` off no MILP solver is started: the answer is the same, proven by one method instead of two.

    Raises:
        PlanningError: a plan breaks a limit.
    """
    started = time.perf_counter()
    priced = problem.priced
    answer = _solve_run_form(priced, prove) if RunForm.applies(priced) else _solve_any_chain(priced, prove)
    if answer is None:
        return explain_infeasible(problem)
    predicted = answer.predicted if priced is problem else predict(problem, answer.stages)
    note = pyomo_solver.complaints() if prove else ""
    return replace(answer, predicted=predicted, solver_note=note, solve_s=time.perf_counter() - started)


def _solve_run_form(problem: Problem, prove: bool) -> Solution | None:
    form = RunForm(problem)
    found = search(problem, RunFormEngine(form))
    if found is None:
        return None
    solver, solver_gap, gap = "dp", 0.0, 0.0
    if prove and pyomo_solver.solver_name() is not None:
        with suppress(SolverFailed):  # the log has the reason
            solver, solver_gap, gap = _confirm(form, found.best, found.claims)
    status = Status.OPTIMAL if gap == 0.0 else Status.FEASIBLE_GAP
    return replace(as_solution(problem, found.best, status, solver, gap), solver_gap=solver_gap)


def _solve_any_chain(problem: Problem, prove: bool) -> Solution | None:
    """Chains whose units are not alike, or with pins in the middle: exact on small fleets, else with a gap."""
    exact = SequenceEngine(problem)
    if exact.affordable:
        found = search(problem, exact)
        return None if found is None else as_solution(problem, found.best, Status.OPTIMAL, "dp")
    found = search(problem, improve_orders(problem))
    if found is None:
        return None
    gap = 1.0
    if prove and pyomo_solver.solver_name() is not None:
        with suppress(SolverFailed):
            gap = _gap(problem, found.best)
    status = Status.OPTIMAL if gap <= TIE else Status.FEASIBLE_GAP
    return as_solution(problem, found.best, status, "ordering", gap)


def _gap(problem: Problem, best: Candidate) -> float:
    """How much of the plan's objective may be saved at most, by a relaxation that lets units lie anywhere."""
    value = best.value_s
    bounds = []
    if problem.objective in (Objective.BALANCED, Objective.THROUGHPUT):
        bounds.append(milp.relaxed_bound_s(problem, load=True))
    if problem.objective in (Objective.LATENCY, Objective.PAPER):
        bounds.append(milp.relaxed_bound_s(problem, load=False))
    elif problem.objective is Objective.THROUGHPUT and problem.streams is not None:
        bounds.append(milp.relaxed_bound_s(problem, load=False) / problem.streams)
    bound = max(bounds)
    singles = [plan.value_s for plan in single_plans(problem)]
    return max(0.0, 1 - max(min([bound, *singles]), 0.0) / value) if value > 0 else 0.0


def as_solution(problem: Problem, plan: Candidate, status: Status, solver: str, gap: float = 0.0) -> Solution:
    """A checked plan as a `Solution`.

    Raises:
        PlanningError: the plan breaks a limit, which is a defect of the solver that made it.
    """
    wrong = check(problem, plan.stages)
    if wrong:
        raise PlanningError(f"the {solver} solver made a plan that is not allowed ({wrong[0]}): please report it")
    return Solution(status, problem.objective, plan.stages, plan.predicted, plan.value_s, gap, solver)


def evaluate(problem: Problem, stages: tuple[Stage, ...]) -> Solution:
    """A given plan with its figures, whether it is any good or not."""
    answer = as_solution(problem.priced, candidate(problem.priced, stages), Status.BASELINE, "given")
    return replace(answer, predicted=predict(problem, stages))


def _confirm(form: RunForm, best: Candidate, claims: tuple[Claim, ...]) -> tuple[str, float, float]:
    """Let the MILP prove every claim: who proved the plan, the largest gap the MILP left, and the plan's own gap.

    The last is 0.0 unless the MILP refutes a claim, which the two methods' tests hold to be impossible.
    """
    solver_gap, gap, solver = 0.0, 0.0, "dp"
    for claim in claims:
        proof = milp.cheapest(form, claim.limit_s, expected_s=best.price_s)
        solver = proof.solver
        if proof.plan is not None and proof.plan.value_s <= claim.price_s:
            logger.warning(
                "%s refutes the dynamic programme by %.3g s", proof.solver, claim.price_s - proof.plan.value_s
            )
            gap = max(gap, 1 - proof.plan.value_s / best.price_s, TIE)
        elif proof.status not in ("infeasible", "optimal") and proof.bound_s <= claim.price_s * (1 - TIE):
            solver_gap = max(solver_gap, 1 - max(proof.bound_s, 0.0) / claim.price_s)
    return ("dp" if solver_gap > 0.0 else solver), solver_gap, gap
