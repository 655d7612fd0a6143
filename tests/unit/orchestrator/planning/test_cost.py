"""What a plan costs and whether it is allowed, on figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orchestrator.planning.cost import check, holdings, memory_bytes, paper_s, predict, ttft_s
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.explain.baselines import best_single, even_split, fastest_first, quickest_single
from orchestrator.planning.problem import Constraints, Device, NodeLimit, Objective, Pin, Problem, Stage
from orchestrator.planning.unit_run import UnitRun

RUNS = (
    UnitRun("embed", 0, 1, 100, 0, 0.0, 90),
    UnitRun("block", 1, 4, 50, 2, 1000.0, 40),
    UnitRun("head", 5, 1, 120, 0, 3000.0, 90),
)
A = Device("a", 1000, (0.001, 0.010, 0.020), (0.0001, 0.001, 0.02), hop_s=0.003, hop_busy_s=0.001, flops_per_s=1e5)
B = Device("b", 1000, (0.002, 0.020, 0.040), (0.0002, 0.002, 0.04), hop_s=0.005, link_bytes_per_s=1e6)
PROBLEM = Problem(
    RUNS, (A, B), context_tokens=10, slots=2, activation_bytes=100, workspace_bytes=7, second_stage_bytes=4,
    tied_bytes=60,
)  # fmt: skip
SPLIT = (Stage("a", 0, 3), Stage("b", 3, 6))
RING = (Stage("a", 0, 3), Stage("b", 3, 5), Stage("a", 5, 6))


def test_a_split_costs_its_units_and_one_hop_per_node() -> None:
    figures = predict(PROBLEM, SPLIT)
    assert [stage.decode_s for stage in figures.stages] == pytest.approx([0.021, 0.080])
    assert [stage.hop_s for stage in figures.stages] == [0.003, 0.005]
    assert figures.decode_s == pytest.approx(0.021 + 0.003 + 0.080 + 0.005)
    assert figures.tokens_per_s == pytest.approx(1 / 0.109)
    assert (figures.bottleneck_node, figures.bottleneck_s) == ("b", pytest.approx(0.080))
    assert figures.tokens_per_s_many == pytest.approx(1 / 0.080)


def test_a_single_device_makes_no_hop() -> None:
    figures = predict(PROBLEM, (Stage("a", 0, 6),))
    assert figures.decode_s == pytest.approx(0.001 + 4 * 0.010 + 0.020)
    assert figures.bottleneck_s == pytest.approx(figures.decode_s)
    assert figures.stages[0].hop_s == 0


def test_a_ring_with_both_ends_on_one_node_makes_as_many_hops_as_it_has_nodes() -> None:
    figures = predict(PROBLEM, RING)
    assert [stage.hop_s for stage in figures.stages] == [0.003, 0.005, 0.0]
    assert figures.decode_s == pytest.approx(0.041 + 0.003 + 0.040 + 0.005)
    assert figures.of_node("a").load_s == pytest.approx(0.041 + 0.001)
    assert check(PROBLEM, RING) == []


def test_memory_counts_units_their_kv_caches_what_is_fixed_and_tied_ends_once() -> None:
    device = replace(A, runtime_overhead_bytes=11, live_move_bytes=13)
    problem = replace(PROBLEM, devices=(device, B))
    block = 50 + 2 * 10 * 2
    held = holdings(problem, SPLIT)
    assert memory_bytes(problem, device, held["a"]) == 11 + 13 + 7 + 100 + 2 * block
    assert memory_bytes(problem, B, held["b"]) == 7 + 2 * block + 120
    both = holdings(problem, RING)["a"]
    assert memory_bytes(problem, device, both) == 11 + 13 + 7 + 100 + 2 * block + 120 + 4 - 60
    alone = holdings(problem, (Stage("a", 0, 6),))["a"]
    assert memory_bytes(problem, device, alone) == 11 + 13 + 7 + 100 + 4 * block + 120 - 60
    assert predict(problem, RING).of_node("a").stored_bytes == 90 + 2 * 40 + 90 - 60


def test_a_unit_with_a_folded_state_keeps_copies_of_it_or_else_rows() -> None:
    """A run may have units of both kinds: each may be the dearer one."""
    embed, blocks, head = PROBLEM.runs
    for state_bytes, kept in ((1, 2 * 10 * 2), (20, 3 * 20 * 2)):
        problem = replace(PROBLEM, runs=(embed, replace(blocks, state_bytes=state_bytes), head))
        assert problem.unit_memory_bytes(problem.runs[1]) == 50 + kept
        assert predict(problem, SPLIT).stages[0].kv_bytes == 2 * kept


def test_few_streams_are_bounded_by_latency_many_by_the_bottleneck() -> None:
    one = predict(replace(PROBLEM, streams=1), SPLIT)
    assert one.tokens_per_s_many == pytest.approx(one.tokens_per_s)
    many = predict(replace(PROBLEM, streams=100), SPLIT)
    assert many.tokens_per_s_many == pytest.approx(1 / many.bottleneck_s)


def test_batches_count_for_many_streams_only() -> None:
    batched = replace(A, decode_batched_s=(0.0005, 0.005, 0.010))
    figures = predict(replace(PROBLEM, devices=(batched, B)), (Stage("a", 0, 6),))
    assert figures.decode_s == pytest.approx(0.061)
    assert figures.bottleneck_s == pytest.approx(0.0305)


def test_first_token_of_one_chunk_and_of_many() -> None:
    problem = replace(PROBLEM, prompt_tokens=8, prefill_chunk_tokens=8)
    first_s, second_s = 8 * (0.0001 + 2 * 0.001), 8 * 2 * 0.002
    hop_s, head_s = 0.003, 0.040
    assert ttft_s(problem, SPLIT) == pytest.approx(first_s + hop_s + second_s + head_s)
    longer = ttft_s(problem, SPLIT, prompt_tokens=24)
    assert longer == pytest.approx(first_s + hop_s + second_s + head_s + 2 * max(first_s, second_s))
    slow_link = replace(problem, devices=(replace(A, link_bytes_per_s=1e4), B))
    assert ttft_s(slow_link, SPLIT) == pytest.approx(ttft_s(problem, SPLIT) + 7 * 100 / 1e4)


def test_the_papers_objective_is_flops_over_speed_and_one_link_per_boundary() -> None:
    problem = replace(PROBLEM, objective=Objective.PAPER)
    held = holdings(problem, SPLIT)
    b_speed = (4 * 1000 + 3000) / (0.002 + 4 * 0.020 + 0.040)
    expected = 2 * 1000 / 1e5 + (2 * 1000 + 3000) / b_speed + 0.5 * 0.003 + 0.5 * 0.005
    assert paper_s(problem, held) == pytest.approx(expected)
    assert paper_s(problem, holdings(problem, (Stage("a", 0, 6),))) == pytest.approx(7000 / 1e5)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((Stage("a", 0, 3),), "3 of 6 units are covered"),
        ((Stage("a", 0, 3), Stage("b", 2, 6)), "expected one that starts at unit 3"),
        ((Stage("a", 0, 3), Stage("b", 4, 6)), "expected one that starts at unit 3"),
        ((Stage("a", 0, 3), Stage("a", 3, 6)), "more than once"),
        ((Stage("a", 0, 2), Stage("b", 2, 3), Stage("a", 3, 4), Stage("b", 4, 6)), "more than once"),
        ((Stage("a", 0, 3), Stage("x", 3, 6)), "x may not take part"),
    ],
)
def test_plans_that_are_not_chains_are_refused(stages: tuple[Stage, ...], says: str) -> None:
    assert says in "; ".join(check(PROBLEM, stages))


def test_every_limit_of_a_device_is_checked() -> None:
    tight = replace(A, memory_bytes=200, storage_bytes=100)
    rules = Constraints(limits=(NodeLimit("a", max_units=2),), pins=(Pin("b", 0, 1),))
    wrong = check(replace(PROBLEM, devices=(tight, B), constraints=rules), SPLIT)
    assert len(wrong) == 4
    for part in ("a needs 287 bytes of memory", "170 bytes of storage", "a holds 3 units", "unit 0 is pinned to b"):
        assert any(part in line for line in wrong), (part, wrong)


def test_who_may_take_part() -> None:
    phone = replace(B, battery_percent=20.0, charging=False)
    assert Constraints().refusal(phone) is None
    assert Constraints(exclude=frozenset({"b"})).refusal(phone) == "excluded"
    assert Constraints(only_on_charger=True).refusal(phone) == "not on the charger"
    assert Constraints(only_on_charger=True).refusal(A) is None
    assert "20 %" in (Constraints(min_battery_percent=30).refusal(phone) or "")
    assert Constraints(min_battery_percent=20).refusal(phone) is None
    assert Constraints(min_battery_percent=30).refusal(A) is None


def test_shares_are_rounded_down_to_whole_units() -> None:
    def most(**limit: float) -> int:
        rules = Constraints(limits=(NodeLimit("a", **limit),))  # type: ignore[arg-type]
        return replace(PROBLEM, constraints=rules).unit_limit(A)

    assert most(max_share=0.5) == 3
    assert most(max_share=0.49) == 2
    assert most(max_share=0.5, max_units=1) == 1
    assert most() == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"devices": ()}, "no devices"),
        ({"devices": (A, A)}, "'a' is listed twice"),
        ({"devices": (replace(A, decode_s=(1.0,)),)}, "decode_s has 1 figures for 3 runs"),
        ({"devices": (replace(A, prefill_s=(0.0, math.nan, 0.0)),)}, "prefill_s must be finite"),
        ({"devices": (replace(A, hop_s=-1.0),)}, "hop_s"),
        ({"devices": (replace(A, link_bytes_per_s=0.0),)}, "link_bytes_per_s"),
        ({"runs": ()}, "no units"),
        ({"runs": (UnitRun("layer", 0, 1, 1),)}, "kind 'layer' is unknown"),
        ({"runs": (UnitRun("embed", 0, 1, 1), UnitRun("block", 2, 1, 1))}, "starts at unit 1"),
        ({"runs": (UnitRun("embed", 0, 1, -1),)}, "negative"),
        ({"context_tokens": 0}, "at least 1"),
        ({"streams": 0}, "streams"),
        ({"constraints": Constraints(pins=(Pin("a", 0, 9),))}, "units go from 0 to 6"),
        ({"constraints": Constraints(pins=(Pin("a", 0, 2), Pin("b", 1, 3)))}, "pinned to 'a' and to 'b'"),
    ],
)
def test_a_problem_that_contradicts_itself_is_refused_in_one_line(change: dict[str, object], says: str) -> None:
    with pytest.raises(PlanningError) as refused:
        replace(PROBLEM, **change)  # type: ignore[arg-type]
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_baselines() -> None:
    even = even_split(PROBLEM)
    assert even is not None
    assert even.stages == SPLIT
    single = best_single(PROBLEM)
    assert single is not None
    assert single.stages == (Stage("a", 0, 6),)
    small = replace(PROBLEM, devices=(replace(A, memory_bytes=300), replace(B, memory_bytes=400)))
    assert best_single(small) is None
    quickest = quickest_single(small)
    assert quickest is not None
    assert not quickest.allowed
    assert "a needs" in quickest.wrong[0]
    greedy = fastest_first(small)
    assert greedy is not None
    assert greedy.stages == (Stage("a", 0, 3), Stage("b", 3, 6))
    assert fastest_first(replace(PROBLEM, devices=(replace(A, memory_bytes=50),))) is None
