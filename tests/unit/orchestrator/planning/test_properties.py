"""What holds for every plan, whatever the fleet."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.cost import check
from orchestrator.planning.moves.downloads import downloads
from orchestrator.planning.problem import Objective, Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.solve import evaluate, solve
from orchestrator.planning.standby.plan_standby import plan_standby
from orchestrator.planning.standby.question import question
from tests.support.planning import random_problem
from tests.support.strategies import examples

problems = st.builds(
    lambda seed, objective, uneven: replace(
        random_problem(seed, max_devices=6, max_units=14, uneven_chain=uneven), objective=objective
    ),
    seed=st.integers(0, 10**6),
    objective=st.sampled_from(list(Objective)),
    uneven=st.booleans(),
)


@given(problem=problems)
@examples(150)
def test_every_unit_is_covered_once_within_every_limit_and_contiguous(problem: Problem) -> None:
    answer = solve(problem, prove=False)
    if isinstance(answer, Infeasible):
        assert answer.reason
        assert answer.smallest_fix
        return
    assert [unit for stage in answer.stages for unit in range(stage.start, stage.stop)] == list(
        range(problem.unit_count)
    )
    inner = [stage.node for stage in answer.stages[:-1]]
    assert len(set(inner)) == len(inner)
    assert check(problem, answer.stages) == []
    assert evaluate(problem, answer.stages).predicted == answer.predicted
    for node in answer.predicted.nodes:
        assert node.memory_bytes <= node.memory_limit_bytes
        assert node.storage_limit_bytes is None or node.stored_bytes <= node.storage_limit_bytes
    if problem.objective is Objective.PAPER:
        assert len(answer.nodes) == len(answer.stages)


@given(problem=problems)
@examples(40)
def test_the_same_question_gets_the_same_answer_proven_or_not(problem: Problem) -> None:
    first, second, proven = solve(problem, prove=False), solve(problem, prove=False), solve(problem)
    assert first == second
    if isinstance(first, Solution):
        assert isinstance(proven, Solution)
        assert proven.stages == first.stages
        assert proven.predicted == first.predicted


@given(problem=problems)
@examples(60)
def test_more_memory_never_makes_a_plan_worse(problem: Problem) -> None:
    answer = solve(problem, prove=False)
    roomier = replace(
        problem, devices=tuple(replace(device, memory_bytes=device.memory_bytes * 2) for device in problem.devices)
    )
    if isinstance(answer, Solution):
        better = solve(roomier, prove=False)
        assert isinstance(better, Solution)
        if problem.objective is not Objective.BALANCED:  # there the allowed slowness shrinks with the optimum
            assert better.objective_value <= answer.objective_value * (1 + 1e-9)


@given(problem=problems)
@examples(40)
def test_standby_stays_within_what_the_plan_leaves(problem: Problem) -> None:
    answer = solve(problem, prove=False)
    if isinstance(answer, Infeasible):
        return
    asked, planned = question(problem, answer.stages), plan_standby(problem, answer.stages)
    disk = dict.fromkeys(asked.spare_memory, 0)
    memory = dict.fromkeys(asked.spare_memory, 0)
    for kept in planned.standby:
        mine = [stage for stage in answer.stages if stage.node == kept.node]
        assert any(kept.stop == stage.start or kept.start == stage.stop for stage in mine)
        assert not any(stage.start < kept.stop and kept.start < stage.stop for stage in mine)
        assert kept.start <= kept.warm_start <= kept.warm_stop <= kept.stop
        nearest = {True: kept.stop - 1, False: kept.start}
        side = next(one for one in asked.sides if one.node == kept.node and one.units[0] == nearest[one.leftwards])
        disk[kept.node] += sum(side.disk_bytes[: kept.count])
        memory[kept.node] += sum(side.resident_bytes[: kept.warm_stop - kept.warm_start])
    for node in disk:
        spare = asked.spare_disk[node]
        assert spare is None or disk[node] <= spare
        assert memory[node] <= asked.spare_memory[node]


@given(problem=problems)
@examples(40)
def test_a_plan_that_runs_keeps_its_order_and_moves_nothing(problem: Problem) -> None:
    answer = solve(problem, prove=False)
    if isinstance(answer, Infeasible):
        return
    again = solve(replace(problem, incumbent=answer.stages), prove=False)
    assert isinstance(again, Solution)
    assert again.objective_value == answer.objective_value
    assert not any(downloads(problem, answer.stages, answer.stages).values())
