"""A plan in words and numbers: alone or split, who is left out and why, what is missing, what changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.planning.explain.explain import explain
from orchestrator.planning.explain.render import as_text
from orchestrator.planning.problem import Constraints, NodeLimit, Objective, Pin, Problem, Stage
from orchestrator.planning.solution import Infeasible, Solution, Standby
from orchestrator.planning.solver.infeasible import is_feasible
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.standby.plan_standby import plan_standby
from schemas.contract import dump, load
from schemas.messages import PlanExplanation
from tests.support.fleets import MB, device, fleet
from tests.support.planning import random_problem

LAPTOP = device("laptop", 1.0, 2000)
PHONE = device("phone", 4.0, 2000, hop_ms=5.0)
TABLET = device("tablet", 6.0, 2000, hop_ms=8.0)


def solved(problem: Problem) -> Solution:
    answer = solve(problem)
    assert isinstance(answer, Solution)
    return answer


def unsolved(problem: Problem) -> Infeasible:
    answer = solve(problem)
    assert isinstance(answer, Infeasible)
    return answer


def told(problem: Problem, answer: Solution, standby: Sequence[Standby] = ()) -> dict[str, Any]:
    """The explanation as it is sent; what was sent is read as it was meant."""
    explanation = explain(problem, answer, standby)
    said: dict[str, Any] = dump(explanation)
    assert load(PlanExplanation, json.loads(json.dumps(said))) == explanation
    return said


def test_one_fast_device_beats_any_split_is_used_alone_and_the_plan_says_why() -> None:
    problem = fleet(PHONE, LAPTOP, TABLET)
    answer = solved(problem)
    assert answer.stages == (Stage("laptop", 0, 12),)
    said = told(problem, answer)
    # Split with the phone: 1 block there (4 ms), hops of 1 and 5 ms, 11 ms less one block on the laptop.
    assert said["why"] == ["laptop is used alone, for any split is slower: with phone 18 ms per token instead of 12"]
    assert [row["role"] for row in said["devices"]] == ["used", "left out", "left out"]
    text = as_text(load(PlanExplanation, said))
    assert "used alone" in text
    assert "proven optimal (glpk" in text


def test_a_device_that_only_slows_things_is_left_out_and_said() -> None:
    small = [replace(LAPTOP, name=f"laptop-{index}", memory_bytes=700 * MB) for index in (1, 2)]
    problem = fleet(*small, device("old-phone", 30.0, 2000, hop_ms=20.0))
    answer = solved(problem)
    assert set(answer.nodes) == {"laptop-1", "laptop-2"}
    said = told(problem, answer)
    assert "left out, for nothing is gained with them: old-phone" in said["why"]
    row = next(row for row in said["devices"] if row["node"] == "old-phone")
    assert row["role"] == "left out"
    assert row["with_ms"] > said["predicted"]["decode_ms"]
    assert "its hop alone takes 20 ms" in row["says"]


def test_what_each_device_adds_is_worked_out_by_planning_without_it() -> None:
    problem = fleet(device("a", 1.0, 900), device("b", 2.0, 900), device("c", 3.0, 900))
    answer = solved(problem)
    rows = {row["node"]: row for row in told(problem, answer)["devices"]}
    assert set(answer.nodes) == {"a", "b"}
    without_a = solved(replace(problem, devices=problem.devices[1:]))
    assert rows["a"]["without_ms"] == pytest.approx(without_a.objective_value * 1e3)
    assert "instead of" in rows["a"]["says"]


def test_a_device_that_is_needed_is_said_to_be() -> None:
    problem = fleet(device("a", 1.0, 700), device("b", 2.0, 700))
    rows = told(problem, solved(problem))["devices"]
    assert all(row["says"].startswith("needed: without it needs 1.2 GB, the fleet has 700 MB") for row in rows)


@pytest.mark.parametrize("objective", list(Objective))
def test_every_objective_is_explained_as_data_and_as_text(objective: Objective) -> None:
    problem = replace(fleet(device("a", 1.0, 900), device("b", 2.0, 900), device("c", 9.0, 50)), objective=objective)
    answer = solved(problem)
    said = told(problem, answer, plan_standby(problem, answer.stages).standby)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["objective"] == objective.value
    assert said["status"] == "optimal"
    assert {"best single device", "quickest device, memory aside"} & {row["name"] for row in said["compared"]}
    assert "even split" in {row["name"] for row in said["compared"]}
    text = as_text(load(PlanExplanation, said))
    for part in ("stage", "ms/token", "first token after", "the bottleneck is", "compared", "device"):
        assert part in text
    row = next(row for row in said["devices"] if row["node"] == "c")
    assert row["says"].startswith("no room for a single unit")


def test_the_predicted_times_add_up() -> None:
    problem = fleet(device("a", 1.0, 900), device("b", 2.0, 900))
    said = told(problem, solved(problem))
    stages = said["stages"]
    total = sum(stage["decode_ms"] + stage["hop_ms"] for stage in stages)
    assert total == pytest.approx(said["predicted"]["decode_ms"])
    assert said["predicted"]["tokens_per_s"] == pytest.approx(1e3 / total, rel=1e-3)


def test_refused_devices_are_named_with_the_reason() -> None:
    low = replace(PHONE, battery_percent=8.0, charging=False)
    rules = Constraints(exclude=frozenset({"tablet"}), min_battery_percent=20)
    problem = replace(fleet(LAPTOP, low, TABLET), constraints=rules)
    rows = {row["node"]: row for row in told(problem, solved(problem))["devices"]}
    assert rows["tablet"] == {"node": "tablet", "role": "refused", "says": "excluded"}
    assert rows["phone"]["says"] == "battery at 8 %, 20 % asked"


def test_standby_units_are_shown_with_their_node() -> None:
    problem = fleet(device("a", 1.0, 900), device("b", 2.0, 900))
    answer = solved(problem)
    said = told(problem, answer, plan_standby(problem, answer.stages).standby)
    kept = [units["units"] for node in said["nodes"] for units in node["standby"]]
    assert len(kept) == 2
    assert all(units in as_text(load(PlanExplanation, said)) for units in kept)


def test_not_enough_memory_says_how_much_is_missing_and_the_smallest_fix() -> None:
    problem = fleet(device("a", 1.0, 500), device("b", 1.0, 460))
    answer = unsolved(problem)
    assert answer.reason == "needs 1.2 GB, the fleet has 960 MB; short by 240 MB"
    assert answer.missing_bytes == 240 * MB
    assert answer.smallest_fix == "free 240 MB of memory on 'b' (700 MB in all)"
    a, b = problem.devices
    limited = unsolved(replace(problem, devices=(a, replace(b, memory_is_limited=True))))
    assert limited.smallest_fix == "raise the --memory-limit-mb of 'b' by 240 MB (700 MB in all)"
    text = as_text(explain(problem, answer))
    assert text.startswith("No plan: needs 1.2 GB")
    assert "or: add a device with 300 MB of usable memory" in text


def test_the_missing_bytes_are_exact() -> None:
    """With that much on the named device there is a plan, with one byte less there is none."""
    for seed in range(40):
        problem = random_problem(seed)
        answer = solve(problem, prove=False)
        if isinstance(answer, Solution) or not any("of memory on" in fix for fix in answer.fixes):
            continue
        name = next(fix for fix in answer.fixes if "of memory on" in fix).split("'")[1]

        def given(extra: int, problem: Problem = problem, name: str = name) -> Problem:
            return replace(
                problem,
                devices=tuple(
                    replace(one, memory_bytes=one.memory_bytes + extra) if one.name == name else one
                    for one in problem.devices
                ),
            )

        assert is_feasible(given(answer.missing_bytes)), seed
        assert not is_feasible(given(answer.missing_bytes - 1)), seed


@pytest.mark.parametrize(
    ("rules", "reason", "fix"),
    [
        (Constraints(exclude=frozenset({"laptop", "phone"})), "no device may take part", "let 'laptop' take part"),
        (Constraints(exclude=frozenset({"laptop"})), "needs 1.2 GB", "let 'laptop' take part (excluded)"),
        (Constraints(limits=(NodeLimit("laptop", max_units=3),)), "whole units", "lift the limit on 'laptop'"),
        (
            Constraints(pins=(Pin("gone", 0, 1),)),
            "the pin of units 0..1 to 'gone' can't be kept: 'gone' is not there",
            "drop the pin of units 0..1 to 'gone'",
        ),
        (
            Constraints(pins=(Pin("laptop", 0, 1),), exclude=frozenset({"laptop"})),
            "can't be kept: 'laptop' is left out (excluded)",
            "let 'laptop' take part (excluded)",
        ),
    ],
)
def test_constraints_that_leave_no_plan_are_named(rules: Constraints, reason: str, fix: str) -> None:
    problem = replace(fleet(LAPTOP, replace(PHONE, memory_bytes=500 * MB)), constraints=rules)
    answer = unsolved(problem)
    assert reason in answer.reason
    assert fix in answer.smallest_fix


def test_pins_to_a_node_that_is_gone_are_the_cause_whatever_the_caches_in_the_words_of_who_asked() -> None:
    pins = tuple(Pin("gone", unit, unit + 1, "--pin ends=gone", "linguabus plan apply") for unit in (0, 11))
    problem = replace(fleet(LAPTOP, PHONE), constraints=Constraints(pins=pins), least_context_tokens=1)
    answer = unsolved(problem)
    assert answer.reason == "--pin ends=gone can't be kept: 'gone' is not there"
    assert answer.fixes == (answer.smallest_fix,) == ("drop --pin ends=gone: linguabus plan apply",)
    both = unsolved(replace(problem, constraints=Constraints(pins=(*pins, Pin("lost", 4, 5, "--pin 3=lost")))))
    assert (both.smallest_fix, both.fixes) == ("start 'gone'", ())


def test_a_long_context_is_said_to_be_the_cause() -> None:
    problem = fleet(device("a", 1.0, 800), device("b", 1.0, 700))
    runs = (problem.runs[0], replace(problem.runs[1], kv_bytes_per_token=MB // 100), problem.runs[2])
    answer = unsolved(replace(problem, runs=runs, context_tokens=8000))
    assert any(fix.startswith("reduce the context from 8000 to ") for fix in answer.fixes)
    tokens = int(next(fix for fix in answer.fixes if "context" in fix).split(" to ")[1].split()[0])
    assert is_feasible(replace(problem, runs=runs, context_tokens=tokens))
    assert not is_feasible(replace(problem, runs=runs, context_tokens=tokens + 1))


def test_where_caches_may_be_small_what_is_missing_is_missing_for_the_smallest() -> None:
    problem = fleet(device("a", 1.0, 300), device("b", 1.0, 300))
    runs = (problem.runs[0], replace(problem.runs[1], kv_bytes_per_token=MB // 100), problem.runs[2])
    large = replace(problem, runs=runs, context_tokens=8000, slots=4)
    answer = unsolved(replace(large, least_context_tokens=256, least_slots=1))
    least = unsolved(large.with_caches(256, 1))
    assert answer.reason == f"{least.reason} (with 256 tokens of context and 1 at once, the least that is served)"
    assert (answer.fixes, answer.missing_bytes) == (least.fixes, least.missing_bytes)
    assert answer.missing_bytes < unsolved(large).missing_bytes


def test_storage_slots_large_units_and_shared_ends_as_causes() -> None:
    full = fleet(device("a", 1.0, 900, storage_mb=300), device("b", 1.0, 900, storage_mb=600))
    assert "too little storage" in unsolved(full).reason
    assert "of storage on" in unsolved(full).smallest_fix
    tiny = fleet(*(device(name, 1.0, 90) for name in "abcdefghijklmnop"))
    assert "one embed unit needs 100 MB, and no device has more than 90.0 MB" in unsolved(tiny).reason
    base = fleet(device("a", 1.0, 900), device("b", 1.0, 900))
    cached = replace(
        base, runs=(base.runs[0], replace(base.runs[1], kv_bytes_per_token=MB // 10), base.runs[2]), slots=8
    )
    assert any(fix.startswith("serve ") for fix in unsolved(cached).fixes)
    tied = replace(fleet(device("a", 1.0, 350), device("b", 1.0, 850)), tied_bytes=100 * MB)
    assert "both ends of the ring on one node" in unsolved(replace(tied, objective=Objective.PAPER)).reason
    assert solved(tied).stages[0].node == "a"


def test_pinned_ends_stay_on_my_phone() -> None:
    rules = Constraints(pins=(Pin("phone", 0, 3), Pin("phone", 11, 12)))
    problem = replace(fleet(LAPTOP, replace(PHONE, memory_bytes=600 * MB)), constraints=rules)
    answer = solved(problem)
    assert answer.stages == (Stage("phone", 0, 3), Stage("laptop", 3, 11), Stage("phone", 11, 12))
    tail = replace(problem, constraints=Constraints(pins=(Pin("phone", 0, 2), Pin("phone", 10, 12))))
    assert solved(tail).stages == (Stage("phone", 0, 2), Stage("laptop", 2, 10), Stage("phone", 10, 12))


def test_a_pin_in_the_middle_puts_the_node_there() -> None:
    problem = replace(fleet(LAPTOP, PHONE), constraints=Constraints(pins=(Pin("phone", 4, 6),)))
    assert solved(problem).stages == (Stage("laptop", 0, 4), Stage("phone", 4, 6), Stage("laptop", 6, 12))
