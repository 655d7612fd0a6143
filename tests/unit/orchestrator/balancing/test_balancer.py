"""The balancer asks when beliefs change, moves when it pays, and says why."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.balancing.balancer import Balancer, BalanceSettings, Proposal, with_slowness
from orchestrator.balancing.decision_log import Decision, DecisionLog, Verdict
from orchestrator.balancing.speed_estimate import Reading
from orchestrator.planning.moves.nearby import nearby, value_s
from orchestrator.planning.problem import Objective, Problem, Stage
from orchestrator.planning.solution import Solution
from orchestrator.planning.solver.solve import evaluate, solve
from tests.support.fleets import device, fleet

PROBLEM = replace(
    fleet(device("a", 1.0, 900), device("b", 1.0, 900), device("c", 1.0, 900)), objective=Objective.THROUGHPUT
)
EVEN = (Stage("a", 0, 5), Stage("b", 5, 9), Stage("c", 9, 12))


def best(problem: Problem) -> tuple[Stage, ...]:
    answer = solve(problem, prove=False)
    assert isinstance(answer, Solution)
    return answer.stages


def ask(
    slowness: dict[str, float] | None = None,
    *,
    tokens: int = 10_000,
    cost_s: float = 0.5,
    running: tuple[Stage, ...] = EVEN,
    problem: Problem = PROBLEM,
    costs: Callable[[tuple[Stage, ...]], float] | None = None,
) -> Proposal:
    slowed = replace(with_slowness(problem, slowness or {}), incumbent=running)
    return Proposal(
        problem=slowed, running=running, found=best(slowed), requests=8, remaining_tokens=tokens,
        cost_s=costs or (lambda _: cost_s),
    )  # fmt: skip


def tell(balancer: Balancer, node: str, ratio: float, seconds: range, seed: int = 0) -> None:
    draw = random.Random(seed)
    for second in seconds:
        balancer.observe(node, Reading(0.01 * ratio * draw.lognormvariate(0, 0.02), 0.01, second + 1), float(second))


def test_nothing_is_asked_while_nodes_are_as_quick_as_planned() -> None:
    balancer = Balancer()
    for node in "abc":
        tell(balancer, node, 1.0, range(60))
    assert [balancer.consider(float(second)).verdict for second in range(60)] == [Verdict.STAY] * 60
    (entry,) = balancer.why()
    assert (entry["times"], entry["reason"]) == (60, "all nodes are as quick as the plan counts on")


def test_a_believed_change_is_asked_about_judged_and_recorded() -> None:
    balancer = Balancer()
    tell(balancer, "b", 1.0, range(30))
    tell(balancer, "b", 3.0, range(30, 36))
    asked = balancer.consider(36.0)
    assert asked.verdict is Verdict.ASK
    assert asked.reason.startswith("b counts as 3.0 times as slow")
    decision = balancer.judge(ask(balancer.slowness()), 36.0)
    assert decision.verdict is Verdict.MOVE
    assert decision.gain > 0.2
    assert decision.saved_s > decision.cost_s
    assert sum(stage.count for stage in decision.stages if stage.node == "b") < 4
    assert [entry["verdict"] for entry in balancer.why()] == ["ask", "move"]
    assert json.loads(json.dumps(balancer.why()))[1]["stages"][0].keys() == {"node", "start", "stop"}
    # What was judged is not asked about again.
    assert balancer.consider(37.0).verdict is Verdict.STAY


def test_a_move_must_pay_for_itself_and_is_thought_of_again() -> None:
    balancer = Balancer()
    slow = {"b": 2.0}
    dear = balancer.judge(ask(slow, tokens=100, cost_s=30.0), 10.0)
    assert dear.verdict is Verdict.STAY
    assert dear.reason.startswith("it does not pay: ")
    assert balancer.consider(11.0).verdict is Verdict.STAY
    assert balancer.consider(10.0 + balancer.settings.again_s).verdict is Verdict.ASK
    assert balancer.judge(ask(slow, tokens=100_000, cost_s=30.0), 41.0).verdict is Verdict.MOVE


def test_work_that_keeps_arriving_counts() -> None:
    balancer = Balancer()
    assert balancer.judge(ask({"b": 2.0}, tokens=0, cost_s=2.0), 0.0).verdict is Verdict.STAY
    for second in range(60):
        balancer.asked(100, float(second))
    assert balancer.judge(ask({"b": 2.0}, tokens=0, cost_s=2.0), 60.0).verdict is Verdict.MOVE
    assert balancer.judge(ask({"b": 2.0}, tokens=0, cost_s=2.0), 3600.0).verdict is Verdict.STAY


def test_with_nothing_to_lose_an_idle_pipeline_moves() -> None:
    assert Balancer().judge(ask({"b": 2.0}, tokens=0, cost_s=0.0), 0.0).verdict is Verdict.MOVE


def test_a_small_step_is_taken_where_the_best_plan_costs_too_much() -> None:
    def costs(stages: tuple[Stage, ...]) -> float:
        return 1000.0 * (sum(abs(one.start - other.start) for one, other in zip(stages, EVEN, strict=False)) > 1)

    decision = Balancer().judge(ask({"b": 2.0}, costs=costs), 0.0)
    assert decision.verdict is Verdict.MOVE
    assert decision.stages in set(nearby(with_slowness(PROBLEM, {"b": 2.0}), EVEN))
    assert decision.cost_s == 0.0


def test_no_move_while_it_cools_down_and_longer_after_each_failure() -> None:
    balancer = Balancer()
    balancer.moved(0.0)
    decision = balancer.judge(ask({"b": 2.0}), 5.0)
    assert (decision.verdict, decision.reason.split(";")[0]) == (Verdict.STAY, "cooling down after the last move")
    assert balancer.consider(9.0).verdict is Verdict.STAY
    assert balancer.consider(10.0).verdict is Verdict.ASK
    balancer.failed(20.0)
    assert balancer.judge(ask({"b": 2.0}), 49.0).verdict is Verdict.STAY
    assert balancer.judge(ask({"b": 2.0}), 50.0).verdict is Verdict.MOVE
    balancer.failed(50.0)
    assert balancer.judge(ask({"b": 2.0}), 109.0).verdict is Verdict.STAY
    assert balancer.judge(ask({"b": 2.0}), 110.0).verdict is Verdict.MOVE


def test_a_plan_that_breaks_a_limit_is_left() -> None:
    over = (Stage("a", 0, 10), Stage("b", 10, 12))
    decision = Balancer().judge(ask(running=over, cost_s=100.0), 0.0)
    assert decision.verdict is Verdict.MOVE
    assert decision.reason.startswith("the running plan may not go on: a needs ")


def test_a_doubted_node_is_named_in_the_reason() -> None:
    balancer = Balancer()
    balancer.observe("b", Reading(-1.0, 0.01, 1), 0.0)
    assert balancer.consider(1.0).reason.endswith("(not believed: b says that a run takes -1 s)")
    assert balancer.doubts() == {"b": "says that a run takes -1 s"}


def test_history_is_bounded() -> None:
    history = DecisionLog(limit=3)
    for second in range(10):
        history.add(Decision(verdict=Verdict.STAY, reason=f"{second // 2}"), float(second))
    assert [(entry["reason"], entry["times"]) for entry in history.as_dicts()] == [("2", 2), ("3", 2), ("4", 2)]


def test_an_idle_node_takes_the_place_of_a_slow_one() -> None:
    two = replace(PROBLEM, objective=Objective.LATENCY)
    running = (Stage("a", 0, 6), Stage("b", 6, 12))

    def costs(stages: tuple[Stage, ...]) -> float:
        return 0.0 if Stage("a", 0, 6) in stages else float("inf")

    decision = Balancer().judge(ask({"b": 4.0}, problem=two, running=running, costs=costs), 0.0)
    assert decision.stages == (Stage("a", 0, 6), Stage("c", 6, 12))


slownesses = st.fixed_dictionaries({name: st.floats(0.3, 4.0) for name in "abc"})


@given(slownesses, st.integers(0, 100_000), st.floats(0.0, 50.0))
def test_a_move_gains_what_is_needed_and_pays(slowness: dict[str, float], tokens: int, cost_s: float) -> None:
    balancer = Balancer()
    asked = ask(slowness, tokens=tokens, cost_s=cost_s)
    decision = balancer.judge(asked, 0.0)
    if decision.verdict is Verdict.MOVE:
        before_s, after_s = value_s(asked.problem, EVEN), value_s(asked.problem, decision.stages)
        assert 1 - after_s / before_s >= balancer.settings.min_gain
        assert (before_s - after_s) * tokens >= balancer.settings.safety * cost_s - 1e-9
    assert decision.reason
    assert Balancer().judge(asked, 0.0) == decision


@given(slownesses)
def test_values_are_those_of_the_planner(slowness: dict[str, float]) -> None:
    for objective in (Objective.LATENCY, Objective.THROUGHPUT, Objective.BALANCED):
        problem = replace(with_slowness(PROBLEM, slowness), objective=objective)
        assert value_s(problem, EVEN) == pytest.approx(evaluate(problem, EVEN).objective_value)


@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.floats(0.3, 4.0)), min_size=1, max_size=40))
def test_there_are_never_more_moves_than_the_cool_down_allows(changes: list[tuple[float, float]]) -> None:
    settings = BalanceSettings()
    balancer, running, now_s, moves = Balancer(settings), EVEN, 0.0, []
    for wait_s, ratio in changes:
        now_s += wait_s
        decision = balancer.judge(ask({"b": ratio}, running=running, cost_s=0.0), now_s)
        if decision.verdict is Verdict.MOVE:
            running = decision.stages
            moves.append(now_s)
            balancer.moved(now_s)
    assert all(later - earlier >= settings.cool_down_s for earlier, later in itertools.pairwise(moves))
    for index, first_s in enumerate(moves):
        shortly = [at_s for at_s in moves[index:] if at_s - first_s < 60.0]
        assert len(shortly) <= settings.free_moves + 2
