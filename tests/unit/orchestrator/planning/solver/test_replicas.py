"""Several pipelines from one fleet: the best partition on small fleets, a good one on large ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from orchestrator.planning.cost import check
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Constraints, Device, Objective, Pin, Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver import replicas
from orchestrator.planning.solver.replicas import Replicas, answers_first, fluid_bound, plan_replicas
from orchestrator.planning.solver.solve import solve
from tests.support.fleets import device, fleet
from tests.support.planning import random_problem


def planned(problem: Problem) -> Replicas:
    answer = plan_replicas(problem, prove=False)
    assert isinstance(answer, Replicas)
    return answer


def partitions(devices: tuple[Device, ...]) -> Iterator[list[tuple[Device, ...]]]:
    """Every way to split devices into groups."""
    if not devices:
        yield []
        return
    first, rest = devices[0], devices[1:]
    for size in range(len(rest) + 1):
        for chosen in itertools.combinations(rest, size):
            left = tuple(device for device in rest if device not in chosen)
            for others in partitions(left):
                yield [(first, *chosen), *others]


def rate(problem: Problem) -> float:
    answer = solve(replace(problem, objective=Objective.THROUGHPUT, streams=None), prove=False)
    return answer.predicted.tokens_per_s_many if isinstance(answer, Solution) else 0.0


def test_small_fleets_get_the_best_partition() -> None:
    several = 0
    for seed in range(30):
        problem = random_problem(seed, max_devices=4, max_units=8)
        problem = replace(
            problem,
            constraints=Constraints(),
            devices=tuple(replace(one, memory_bytes=one.memory_bytes * 2) for one in problem.devices),
        )
        groups = partitions(problem.devices)
        best = max(sum(rate(replace(problem, devices=group)) for group in split) for split in groups)
        answer = plan_replicas(problem, prove=False)
        if isinstance(answer, Infeasible):
            assert best == 0
            continue
        assert answer.tokens_per_s_many == pytest.approx(best, rel=1e-3)
        assert answer.tokens_per_s_many <= answer.bound_tokens_per_s * (1 + 1e-9)
        several += len(answer.pipelines) > 1
    assert several > 5


def test_a_fleet_that_holds_the_model_twice_serves_twice() -> None:
    answer = planned(fleet(*(device(f"d{index}", 2.0, 700) for index in range(4)), blocks=10))
    assert len(answer.pipelines) == 2
    assert [len(pipeline.nodes) for pipeline in answer.pipelines] == [2, 2]
    assert answer.unused == ()
    assert 0 <= answer.gap < 0.2


@pytest.mark.parametrize(("devices", "most"), [(8, 4), (20, 10)])
def test_a_number_of_pipelines_may_be_asked_for(devices: int, most: int) -> None:
    problem = fleet(*(device(f"d{index:02d}", 2.0, 700) for index in range(devices)))
    for wanted in (1, 2, 3, most, 99):
        answer = plan_replicas(problem, prove=False, pipelines=wanted)
        assert isinstance(answer, Replicas)
        nodes = [node for pipeline in answer.pipelines for node in pipeline.nodes]
        assert len(answer.pipelines) == min(wanted, most)
        assert len(set(nodes)) == len(nodes)
    best = plan_replicas(problem, prove=False)
    assert isinstance(best, Replicas)
    assert best.tokens_per_s_many >= answer.tokens_per_s_many * (1 - 1e-3)


@pytest.mark.parametrize("uneven", [False, True])
def test_large_fleets_share_no_device_and_every_pipeline_may_run(uneven: bool) -> None:
    kinds = [(2.0, 800), (3.0, 500), (5.0, 400)]
    problem = fleet(*(device(f"d{index:02d}", *kinds[index % 3]) for index in range(30)))
    if uneven:
        half = replace(problem.runs[1], count=5), replace(problem.runs[1], start=6, count=5, weight_bytes=90 * 10**6)
        runs = (problem.runs[0], *half, problem.runs[2])
        devices = tuple(
            replace(
                one,
                decode_s=(one.decode_s[0], one.decode_s[1], one.decode_s[1] * 1.5, one.decode_s[2]),
                prefill_s=(one.prefill_s[0], one.prefill_s[1], one.prefill_s[1], one.prefill_s[2]),
            )
            for one in problem.devices
        )
        problem = replace(problem, runs=runs, devices=devices)
    answer = planned(problem)
    assert len(answer.pipelines) > 4
    used = [node for pipeline in answer.pipelines for node in pipeline.nodes]
    assert len(set(used)) == len(used)
    assert set(used) | set(answer.unused) == {one.name for one in problem.devices}
    for pipeline in answer.pipelines:
        assert check(problem, pipeline.stages) == []
    assert answer.tokens_per_s_many <= fluid_bound(problem) * (1 + 1e-9)
    assert answer.tokens_per_s_many > rate(problem)
    assert plan_replicas(problem, prove=False) == answer


def test_a_run_that_costs_a_device_nothing_measurable_leaves_the_bound_finite() -> None:
    """As looking up a row of the embedding does on a quick machine."""
    problem = fleet(*(device(name, 2.0, 800) for name in "abcd"))
    devices = [replace(one, decode_s=(0.0 if one.name == "a" else 1e-4, *one.decode_s[1:])) for one in problem.devices]
    answer = planned(replace(problem, devices=tuple(devices)))
    assert answer.tokens_per_s_many <= answer.bound_tokens_per_s < 10 * answer.tokens_per_s_many


def test_the_quick_rates_are_those_of_exact_plans() -> None:
    for seed in range(25):
        problem = replace(random_problem(seed), objective=Objective.THROUGHPUT, streams=None, constraints=Constraints())
        quick = replicas.Rates(problem).of(frozenset(range(len(problem.devices))))
        assert quick == pytest.approx(rate(problem), rel=1e-3), seed


def test_a_fleet_that_is_too_small_says_so() -> None:
    assert isinstance(plan_replicas(fleet(device("a", 1.0, 300))), Infeasible)
    nobody = replace(fleet(device("a", 1.0, 3000)), constraints=Constraints(exclude=frozenset({"a"})))
    assert isinstance(plan_replicas(nobody), Infeasible)


def test_pins_belong_to_one_pipeline() -> None:
    problem = replace(fleet(device("a", 1.0, 3000)), constraints=Constraints(pins=(Pin("a", 0, 1),)))
    with pytest.raises(PlanningError, match="drop the pins"):
        plan_replicas(problem)


def test_a_request_goes_where_it_is_answered_first() -> None:
    assert answers_first([2.0, 1.0, 1.5]) == 1
    assert answers_first([1.0, 1.0]) == 0
