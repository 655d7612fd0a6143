"""The planner against trying every plan: objective, tie-break, feasibility; standby against trying every range."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from orchestrator.planning.problem import Objective, Problem
from orchestrator.planning.solution import Infeasible, Solution, Status
from orchestrator.planning.solver import sequence
from orchestrator.planning.solver.runform import RunForm
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.standby.plan_standby import grow_greedily, plan_standby
from orchestrator.planning.standby.question import Reach, question
from tests.support.planning import Best, best_of, every_plan, every_share, random_problem, try_all

INSTANCES = 300
BATCHES = 10


def tie_break_of(answer: Solution) -> float:
    return answer.predicted.bottleneck_s if answer.objective is Objective.LATENCY else answer.predicted.decode_s


def assert_is_best(problem: Problem, answer: Solution | Infeasible, best: Best | None, seed: int) -> None:
    if best is None:
        assert isinstance(answer, Infeasible), (seed, problem.objective, answer)
        return
    assert isinstance(answer, Solution), (seed, problem.objective, answer)
    assert answer.status is Status.OPTIMAL
    assert answer.gap == 0
    assert answer.objective_value == pytest.approx(best.value_s, rel=1e-8), (seed, problem.objective)
    if problem.objective is not Objective.PAPER:
        assert tie_break_of(answer) == pytest.approx(best.tie_break_s, rel=1e-8), (seed, problem.objective)


@pytest.mark.parametrize("batch", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.long) for n in range(3, BATCHES))])
def test_the_plan_equals_exhaustive_search(batch: int) -> None:
    """300 instances of up to 5 devices and 10 units, every objective on each, proven by GLPK."""
    for seed in range(batch, INSTANCES, BATCHES):
        problem = random_problem(seed)
        tried = try_all(problem, every_share(problem))
        for objective in Objective:
            asked = replace(problem, objective=objective)
            answer = solve(asked)
            assert_is_best(asked, answer, best_of(problem, objective, tried), seed)
            if isinstance(answer, Solution):
                assert answer.solver == "glpk"
                assert answer.solver_gap == 0


def test_the_order_of_like_blocks_is_free() -> None:
    """Counting shares (as the planner does) misses nothing that another order of devices could give."""
    for seed in range(1000, 1060):
        problem = random_problem(seed, max_devices=4, max_units=7)
        tried = try_all(problem, every_plan(problem))
        for objective in Objective:
            asked = replace(problem, objective=objective)
            assert_is_best(asked, solve(asked, prove=False), best_of(problem, objective, tried), seed)


@pytest.mark.parametrize("batch", [0, *(pytest.param(number, marks=pytest.mark.long) for number in (1, 2, 3))])
def test_chains_of_unlike_units_equal_exhaustive_search(batch: int) -> None:
    """Every order, partition and subset of devices; pins in the middle of the chain too."""
    for seed in range(2000 + batch, 2120, 4):
        problem = random_problem(seed, max_devices=4, max_units=7, uneven_chain=True)
        tried = try_all(problem, every_plan(problem))
        for objective in Objective:
            asked = replace(problem, objective=objective)
            assert_is_best(asked, solve(asked), best_of(problem, objective, tried), seed)


def test_the_search_over_orders_is_close_and_its_gap_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for fleets too large for the exact programme; here on small ones, where the optimum is known."""
    monkeypatch.setattr(sequence, "WORK_LIMIT", 0)
    ratios = []
    for seed in range(3000, 3030):
        problem = random_problem(seed, max_devices=4, max_units=7, uneven_chain=True)
        tried = try_all(problem, every_plan(problem))
        for objective in Objective:
            asked = replace(problem, objective=objective)
            best = best_of(problem, objective, tried)
            if best is None or RunForm.applies(asked) or objective is Objective.BALANCED:
                continue
            answer = solve(asked)
            assert isinstance(answer, Solution), (seed, objective)
            assert answer.objective_value * (1 - answer.gap) <= best.value_s * (1 + 1e-6), (seed, objective)
            ratios.append(answer.objective_value / best.value_s)
    assert len(ratios) > 50
    assert min(ratios) > 1 - 1e-9
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) / len(ratios) > 0.8
    assert sum(ratios) / len(ratios) < 1.02


def test_standby_equals_exhaustive_search() -> None:
    tried = better_than_greedy = 0
    for seed in range(4000, 4160):
        problem = replace(random_problem(seed, max_devices=4), objective=Objective.THROUGHPUT, streams=None)
        answer = solve(problem, prove=False)
        if isinstance(answer, Infeasible):
            continue
        asked = question(problem, answer.stages)
        choices = [
            [Reach(cold, warm) for cold in range(len(side.units) + 1) for warm in range(cold + 1)]
            for side in asked.sides
        ]
        if not asked.sides or math.prod(map(len, choices)) > 5000:
            continue
        best = max(asked.value(reaches) for reaches in itertools.product(*choices) if asked.fits(reaches))
        planned = plan_standby(problem, answer.stages)
        assert planned.value_bytes == pytest.approx(best, rel=1e-6), seed
        assert (planned.solver, planned.gap) == ("glpk", 0)
        tried += 1
        better_than_greedy += asked.value(grow_greedily(asked)) < best * (1 - 1e-9)
    assert tried > 50
    assert better_than_greedy > 0


def test_instances_are_varied() -> None:
    """The random problems reach what the tests are about."""
    problems = [random_problem(seed) for seed in range(INSTANCES)]
    assert {len(problem.devices) for problem in problems} == {1, 2, 3, 4, 5}
    assert max(problem.unit_count for problem in problems) == 10
    assert all(RunForm.applies(problem) for problem in problems)
    for feature in (
        lambda p: p.tied_bytes > 0,
        lambda p: p.constraints.pins != (),
        lambda p: p.constraints.limits != (),
        lambda p: p.streams is not None,
        lambda p: any(device.storage_bytes is not None for device in p.devices),
        lambda p: any(device.decode_batched_s is not None for device in p.devices),
    ):
        assert sum(feature(problem) for problem in problems) > 20
