"""Nodes that fail at their part of plans: how long they are left out, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.effects import Note
from orchestrator.events import NodeSaid
from orchestrator.replanning.exclusions import TRIES, Exclusions
from orchestrator.timing import Timing
from schemas.codec import Flag
from schemas.messages import LoadFailureCode, PrepareSegment, RequestFailed, SegmentFailed, StreamEnd, StreamError
from tests.support.orchestrating import World
from tests.support.scripted_nodes import answer_text, make_birth, make_manifest, make_submit

BASE_S = 30.0
WRONG = "its answer to a known input is wrong"


def notes(world: World, kind: str) -> list[str]:
    return [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == kind]


def ring(world: World) -> set[str]:
    return {stage.node for stage in world.plan.ring}


def drained(world: World) -> dict[str, str]:
    reply = world.control("nodes")
    assert reply
    return {node["node"]: node["drained"] for node in reply.result["nodes"] if node["drained"]}


def failed(world: World, node: str, code: LoadFailureCode = "wrong_answers", **changes: Any) -> None:
    """A node of the working ring says that it can't go on."""
    said = {"node": node, "incarnation": 1, "pipeline": "main", "epoch": world.plan.epoch} | changes
    world.event(NodeSaid(node, SegmentFailed(code=code, reason=WRONG, **said)))


# --- how long -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["no_files", "no_room", "refused", "internal"])
def test_what_may_mend_itself_is_tried_again_for_ever(code: LoadFailureCode) -> None:
    exclusions = Exclusions(base_s=BASE_S)
    now_s = 0.0
    for _ in range(10):
        exclusions.add("a", 1, "no such file", code, now_s)
        assert exclusions.excludes("a", 1)
        assert now_s + BASE_S <= exclusions.next_deadline_s() <= now_s + 10 * BASE_S
        now_s = exclusions.next_deadline_s()
        assert exclusions.expire(now_s)
        assert not exclusions.excludes("a", 1)
        assert not exclusions.expire(now_s), "told once"


@pytest.mark.parametrize("code", ["wrong_answers", "unusable"])
def test_what_stays_is_tried_three_times(code: LoadFailureCode) -> None:
    exclusions = Exclusions(base_s=BASE_S)
    for index in range(TRIES):
        assert not exclusions.stays_out("a", 1)
        exclusions.add("a", 1, "no such operator", code, 1000.0 * index)
        exclusions.expire(1000.0 * index + 999) if index < TRIES - 1 else None
    assert exclusions.stays_out("a", 1)
    assert not exclusions.expire(1e9)
    assert exclusions.reason("a") == (
        "no such operator (3 times; it stays left out until it starts again or you say: linguabus node drain a --undo)"
    )
    assert not exclusions.excludes("a", 2), "another start"
    assert exclusions.forgive("a")
    assert not exclusions.excludes("a", 1)
    assert not exclusions.forgive("a")


def test_failures_of_other_kinds_in_between_count_anew() -> None:
    exclusions = Exclusions(base_s=BASE_S)
    codes: list[LoadFailureCode] = ["unusable", "unusable", "no_files", "unusable", "unusable"]
    for code in codes:
        exclusions.add("a", 1, "it failed", code, 0.0)
        assert not exclusions.stays_out("a", 1)


def test_what_worked_counts_anew_but_for_wrong_answers() -> None:
    for code, stays in (("unusable", False), ("wrong_answers", True)):
        exclusions = Exclusions(base_s=BASE_S)
        for _ in range(TRIES):
            exclusions.worked(["a", "b"])
            exclusions.add("a", 1, "it failed", code, 0.0)  # type: ignore[arg-type]
        assert exclusions.stays_out("a", 1) is stays


# --- in a fleet -----------------------------------------------------------------------------------------------------


def test_a_graph_that_a_node_cant_run_is_not_prepared_for_ever() -> None:
    world = World(timing=Timing()).up()
    world.join("a", "b", "c")
    world.nodes["b"].refuses, world.nodes["b"].refuses_as = "operator unknown", "unusable"
    world.wait(3600.0)
    assert len(world.commands("b", PrepareSegment)) == TRIES
    ends = "it stays left out until it starts again or you say: linguabus node drain b --undo"
    assert notes(world, "set_apart") == [f"node b is set apart: operator unknown (3 times; {ends})"]
    status = world.control("status")
    assert status
    assert "b: operator unknown (3 times" in status.result["reason"]
    assert "b: operator unknown (3 times" in status.result["left_out"]
    assert drained(world)["b"].startswith("operator unknown (3 times")
    refused = world.ask()
    end = world.end(refused)
    assert isinstance(end, StreamError)
    assert "b: operator unknown" in end.reason


def test_an_operator_or_another_start_gives_it_back() -> None:
    for gives_back in (lambda w: w.control("drain", node="b", undo=True), lambda w: w.join("b", incarnation=2)):
        world = World(timing=Timing()).up()
        world.join("a", "b", "c")
        world.nodes["b"].refuses, world.nodes["b"].refuses_as = "operator unknown", "unusable"
        world.wait(3600.0)
        world.nodes["b"].refuses = ""
        gives_back(world)
        world.wait(5.0)
        assert ring(world) == {"a", "b", "c"}
        assert drained(world) == {}


def test_another_model_is_tried_on_it() -> None:
    world = World(models={"tiny": make_manifest(), "other": make_manifest("other")}, timing=Timing()).up()
    world.join("a", "b", "c")
    world.nodes["b"].refuses, world.nodes["b"].refuses_as = "operator unknown", "unusable"
    world.wait(3600.0)
    world.nodes["b"].refuses = ""
    world.control("use_model", model="other")
    world.wait(5.0)
    assert world.plan.model == "other"
    assert ring(world) == {"a", "b", "c"}


# --- wrong answers of a ring at work --------------------------------------------------------------------------------


def test_requests_go_on_without_a_node_that_computes_what_is_wrong() -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request = world.ask(make_submit(max_tokens=20))
    world.generate(request, 7)
    wrong = world.plan.ring[1].node
    failed(world, wrong)
    world.wait(1.0)
    assert wrong not in ring(world)
    assert world.end(request) is None
    world.generate(request, 13, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 20)
    assert isinstance(world.end(request), StreamEnd)
    assert notes(world, "set_apart") == [f"node {wrong} is set apart: {WRONG}"]
    assert f"lost {wrong} ({WRONG})" in notes(world, "broken")[0]
    assert drained(world) == {wrong: WRONG}
    plan = world.control("plan")
    assert plan
    assert plan.result["left_out"] == f"{wrong}: {WRONG}"


def test_it_is_given_layers_again_later_and_not_after_the_third_time() -> None:
    world = World(timing=Timing()).serve("a", "b", "c")
    for times in range(1, TRIES + 1):
        failed(world, "b")
        world.wait(2.0)
        assert not world.plan.ring
        world.wait(1000.0)
        assert bool(world.plan.ring) is (times < TRIES)


def test_what_is_said_of_another_epoch_or_start_breaks_nothing() -> None:
    world = World().serve("a", "b", "c", "d")
    epoch = world.plan.epoch
    failed(world, "d")
    failed(world, "a", epoch=type(epoch)(generation=epoch.generation, counter=epoch.counter + 9))
    failed(world, "a", incarnation=2)
    failed(world, "a", pipeline="another")
    world.wait(2.0)
    assert world.plan.epoch == epoch
    assert drained(world) == {}


def test_a_request_that_such_a_node_refuses_meanwhile_goes_on_too() -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request = world.ask(make_submit(max_tokens=20))
    epoch, wrong = world.plan.epoch, world.plan.ring[1].node
    failed(world, wrong)
    refused = RequestFailed(node=wrong, epoch=epoch, request=request, code="internal", reason="it has no such stage")
    world.event(NodeSaid(wrong, refused))
    world.wait(1.0)
    assert world.end(request) is None
    world.generate(request, 20, flags=Flag.LENGTH)
    assert isinstance(world.end(request), StreamEnd)


def test_births_of_other_nodes_do_not_name_it() -> None:
    """Who started again is not shown with the failure of its earlier start."""
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    failed(world, "b")
    world.kill("b")
    world.event(NodeSaid("b", make_birth("b", incarnation=5)))
    world.wait(2.0)
    assert drained(world) == {}
