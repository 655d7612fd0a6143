"""What a node holds of two plans at once, and when a new plan is worth a move."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.balancing.acceptance import Acceptance, AcceptanceQuery, judge
from orchestrator.deployment.coexistence import bytes_beside, fits_beside, migration_of
from orchestrator.deployment.epochs import Epochs
from orchestrator.deployment.open_requests import OpenWork
from orchestrator.deployment.plan import DeployedPlan, Solving
from orchestrator.model.served import ServedModel
from orchestrator.planning.cost import predict
from orchestrator.planning.moves.kv_migration import Migration
from orchestrator.planning.problem import Objective, Stage
from orchestrator.planning.solution import Solution, Status
from orchestrator.replanning.problem_builder import build_problem
from schemas.messages import Epoch, Plan
from tests.support.scripted_nodes import Letters, make_birth, make_manifest

MODEL = ServedModel(make_manifest(), Letters())
FLEET = {name: make_birth(name, memory_mb=1000) for name in "abc"}
BLOCK_KV = 1024 * 256 * 2
PROBLEM = build_problem(
    MODEL.manifest, list(FLEET.values()), context_tokens=256, slots=2, wire_dtype="fp16", chunk_tokens=128
)
WORKSPACE = PROBLEM.workspace_bytes
EMBED, BLOCK, HEAD = map(PROBLEM.unit_memory_bytes, PROBLEM.runs)
LOADED = BLOCK - PROBLEM.runs[1].weight_bytes - BLOCK_KV
"""What a block takes more while it is loaded than when it serves."""


def plan(*stages: tuple[str, int, int], model: ServedModel = MODEL, **changes: Any) -> DeployedPlan:
    ring = tuple(Stage(*stage) for stage in stages)
    predicted = predict(PROBLEM, ring)
    solution = Solution(
        status=Status.OPTIMAL, objective=Objective.LATENCY, stages=ring, predicted=predicted,
        objective_value=predicted.decode_s, gap=0.0, solver="test",
    )  # fmt: skip
    candidate = DeployedPlan(
        pipeline="main", epoch=Epoch(generation=1, counter=1), model=model, context_tokens=256, slots=2,
        wire_dtype="fp16", chunk_tokens=128, solution=solution, incarnations=dict.fromkeys(FLEET, 1),
    )  # fmt: skip
    return replace(candidate, **changes)


RUNNING = plan(("a", 0, 3), ("b", 3, 6))


def beside(new: DeployedPlan, running: DeployedPlan = RUNNING) -> dict[str, int]:
    return bytes_beside(new, running, FLEET)


# --- memory -----------------------------------------------------------------------------------------------------


def test_a_stage_that_stays_as_it_is_needs_nothing_more() -> None:
    assert beside(plan(("a", 0, 3), ("b", 3, 6))) == {"a": 0, "b": 0}
    assert beside(plan(("a", 0, 3), ("c", 3, 6)))["a"] == 0


def test_an_heir_shares_the_rows_that_both_hold() -> None:
    held = beside(plan(("a", 0, 2), ("c", 2, 4), ("b", 4, 6)))
    assert held["a"] == WORKSPACE + EMBED + 2 * BLOCK - BLOCK_KV, "block 1's rows go to c"
    assert held["b"] == WORKSPACE + 2 * BLOCK + HEAD - BLOCK_KV
    assert "c" not in held
    grown = beside(plan(("a", 0, 4), ("b", 4, 6)))
    assert grown["a"] == WORKSPACE + EMBED + 2 * (BLOCK - BLOCK_KV), "all of the old stage's rows are the new one's"


def test_a_draft_model_is_there_once_where_both_plans_have_it() -> None:
    drafted = build_problem(
        MODEL.manifest, list(FLEET.values()), context_tokens=256, slots=2, wire_dtype="fp16", chunk_tokens=128,
        draft=make_manifest("draft", blocks=1),
    )  # fmt: skip
    draft_bytes = drafted.draft_bytes
    assert draft_bytes > 0
    figures = predict(drafted, RUNNING.solution.stages)
    running = replace(RUNNING, solution=replace(RUNNING.solution, predicted=figures), draft="draft")
    assert running.planned_bytes("b") == RUNNING.planned_bytes("b") + draft_bytes
    for stages in ((("a", 0, 3), ("b", 3, 6)), (("a", 0, 2), ("c", 2, 4), ("b", 4, 6)), (("a", 0, 4), ("c", 4, 6))):
        without, stays = plan(*stages), plan(*stages, draft="draft")
        plain = beside(without)
        assert beside(without, running) == plain | {"b": plain["b"] + draft_bytes}, (
            "it is there until the old one is gone"
        )
        assert beside(stays, running) == (plain if stages[-1][0] == "b" else beside(without, running))


def test_a_node_that_takes_other_units_shares_nothing() -> None:
    held = beside(plan(("b", 0, 3), ("a", 3, 6)))
    assert held["a"] == WORKSPACE + EMBED + 2 * BLOCK


def test_what_a_node_needs_for_both_plans_is_exact() -> None:
    new = plan(("a", 0, 4), ("b", 4, 6))
    both = new.planned_bytes("a") + beside(new)["a"]
    overhead = FLEET["a"].overhead_bytes
    assert both == overhead + 2 * WORKSPACE + 2 * EMBED + (2 + 3) * BLOCK - 2 * BLOCK_KV


def test_of_two_stages_on_a_node_one_may_stay() -> None:
    running = plan(("a", 0, 2), ("b", 2, 4), ("a", 4, 6))
    held = beside(plan(("a", 0, 2), ("b", 2, 5), ("a", 5, 6)), running)
    assert held["a"] == WORKSPACE + PROBLEM.both_ends_bytes + LOADED + BLOCK + HEAD


@pytest.mark.parametrize(
    "change",
    [{"model": ServedModel(MODEL.manifest, Letters())}, {"context_tokens": 128}, {"slots": 3}, {"chunk_tokens": 64}],
)
def test_a_plan_that_cannot_take_over_shares_nothing(change: dict[str, Any]) -> None:
    new = plan(("a", 0, 3), ("b", 3, 6), **change)
    assert not new.can_take_over(RUNNING)
    assert beside(new)["a"] == WORKSPACE + EMBED + 2 * BLOCK


def test_a_plan_with_other_batches_takes_over_and_its_stages_stay() -> None:
    new = plan(("a", 0, 3), ("b", 3, 6), batches=(1, 1))
    assert new.can_take_over(plan(("a", 0, 3), ("b", 3, 6), batches=(1, 2)))
    assert beside(new) == {"a": 0, "b": 0}


def test_both_must_fit() -> None:
    new = plan(("a", 0, 4), ("b", 4, 6))
    needed = new.planned_bytes("a") + beside(new)["a"]
    for spare, fits in ((0, True), (-1, False)):
        fleet = {**FLEET, "a": replace(FLEET["a"], memory_bytes=needed + spare)}
        assert fits_beside(new, RUNNING, fleet) is fits
    fleet = {**FLEET, "a": replace(FLEET["a"], memory_bytes=needed + needed // 9 + 1)}
    assert fits_beside(replace(new, memory_margin=0.1), RUNNING, fleet), "a tenth is left free"
    assert not fits_beside(replace(new, memory_margin=0.11), RUNNING, fleet)


def test_the_rows_that_travel_are_those_of_blocks_that_change_their_node() -> None:
    new = plan(("a", 0, 2), ("c", 2, 4), ("b", 4, 6))
    found = migration_of(new, RUNNING, OpenWork(positions=100), dict.fromkeys(FLEET, 1e6), limit_s=60.0)
    assert found.copy_bytes == 2 * 1024 * 100
    assert found.copy_s == pytest.approx(2 * 1024 * 100 / 1e6), "c takes them all"


# --- is it worth it? --------------------------------------------------------------------------------------------

QUICK = Migration(copy_bytes=1, copy_s=0.1, copy_lost_s=0.1, prefill_lost_s=1.0, copies=True)
BUSY = OpenWork(requests=1, positions=100, remaining_tokens=1000)


def ask(
    gain: float, *, work: OpenWork = BUSY, migration: Migration | None = QUICK, forced: bool = False, **changes: Any
) -> Acceptance:
    running = plan(("a", 0, 3), ("b", 3, 6))
    decode_s = running.solution.predicted.decode_s * (1 - gain)
    found = replace(
        plan(("a", 0, 4), ("b", 4, 6)).solution,
        objective_value=decode_s,
        predicted=replace(running.solution.predicted, decode_s=decode_s),
    )
    solving = Solving(job=1, model=MODEL, births=(), context_tokens=256, forced=forced, problem=PROBLEM)
    return judge(AcceptanceQuery(running, found, replace(solving, **changes), work, migration)).answer


def test_a_gain_that_open_requests_feel_is_taken_at_once() -> None:
    assert ask(0.5) is Acceptance.NOW


def test_a_small_gain_is_not_taken_unless_somebody_asks() -> None:
    assert ask(0.04) is Acceptance.STAY
    assert ask(0.04, forced=True) is Acceptance.NOW
    assert ask(0.04, context_tokens=128) is Acceptance.NOW


def test_requests_that_lose_by_a_move_are_left_alone() -> None:
    assert ask(0.5, work=replace(BUSY, remaining_tokens=3)) is Acceptance.WHEN_IDLE
    assert ask(0.5, migration=None) is Acceptance.WHEN_IDLE
    assert ask(0.5, work=OpenWork(), migration=None) is Acceptance.NOW


def test_the_same_plan_again_is_never_rolled_out() -> None:
    running = plan(("a", 0, 3), ("b", 3, 6))
    solving = Solving(job=1, model=MODEL, births=(), context_tokens=256, forced=True, problem=PROBLEM)
    assert judge(AcceptanceQuery(running, running.solution, solving, BUSY, QUICK)).answer is Acceptance.STAY


# --- epochs -----------------------------------------------------------------------------------------------------


def published(generation: int, counter: int = 3) -> Plan:
    epoch = Epoch(generation=generation, counter=counter)
    return replace(RUNNING, epoch=epoch).message()


def test_epochs_grow_and_lie_above_those_of_earlier_starts() -> None:
    epochs = Epochs(1)
    first = epochs.next()
    assert epochs.go_above(published(41))
    assert epochs.generation == 42
    assert first < epochs.next() < epochs.next()


def test_after_the_first_own_plan_another_ones_plan_means_that_it_has_taken_over() -> None:
    epochs = Epochs(5)
    assert not epochs.is_superseded_by(published(9))
    epochs.published(RUNNING.pipeline, own := epochs.next())
    assert not epochs.go_above(published(9))
    assert epochs.is_superseded_by(published(9))
    assert epochs.is_superseded_by(published(5, counter=99))
    assert not epochs.is_superseded_by(published(4))
    assert not epochs.is_superseded_by(published(own.generation, own.counter))


def test_the_plans_of_an_earlier_start_may_be_heard_one_after_the_other() -> None:
    epochs = Epochs(1)
    assert epochs.go_above(published(7))
    epochs.published(RUNNING.pipeline, first := epochs.next())
    other = replace(published(9), pipeline="another")
    assert not epochs.is_superseded_by(other)
    assert epochs.go_above(other)
    assert epochs.next() > other.epoch > first
