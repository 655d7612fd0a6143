"""Several pipelines: the fleet divided, requests where they are answered first, losses that hurt one pipeline only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.effects import Listen
from orchestrator.events import PlanHeard
from orchestrator.timing import Timing
from schemas.codec import Flag
from schemas.messages import Epoch, Plan, PlanConstraints, StageRef, StreamEnd
from schemas.topics import PLAN
from tests.support.orchestrating import World
from tests.support.scripted_nodes import answer_text, make_submit, room_for

HALF_MB = room_for(head=1, block=2)
"""Two such nodes hold the model, one does not."""


def make_world(*, pipelines: int | None = None, slots: int = 2, timing: Timing | None = None) -> World:
    world = World(pipelines=pipelines, slots=slots, timing=timing)
    world.core.plane.pipelines.use_constraints(PlanConstraints(objective="throughput"))
    return world


@pytest.fixture
def world() -> World:
    return make_world().serve("a", "b", "c", "d", memory_mb=HALF_MB)


def nodes_of(world: World, pipeline: str) -> set[str]:
    return {stage.node for stage in world.plan_of(pipeline).ring}


def plans(world: World, pipeline: str) -> int:
    return len(world.published(Plan, PLAN.format(pipeline=pipeline)))


def finish(world: World, request: str) -> str:
    """Generate what is missing of an answer of 8 tokens."""
    world.generate(request, 8 - len(world.text(request)), flags=Flag.LENGTH)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    return world.text(request)


# --- the fleet is divided -----------------------------------------------------------------------------------------


def test_two_pipelines_share_no_node(world: World) -> None:
    assert nodes_of(world, "main") | nodes_of(world, "main-2") == {"a", "b", "c", "d"}
    assert len(nodes_of(world, "main")) == len(nodes_of(world, "main-2")) == 2
    assert Listen("main-2") in world.effects
    epochs = [plan.epoch for plan in world.published(Plan)]
    assert len(set(epochs)) == len(epochs)


def test_the_division_waits_for_the_nodes_asked_for() -> None:
    world = World(pipelines=2, min_nodes=4).up()
    world.join("a", "b", "c", memory_mb=HALF_MB)
    world.wait(30.0)
    assert not world.published(Plan)
    world.join("d", memory_mb=HALF_MB)
    world.wait(2.0)
    assert nodes_of(world, "main") | nodes_of(world, "main-2") == {"a", "b", "c", "d"}


@pytest.mark.parametrize("pipelines", [1, None])
def test_one_pipeline_where_that_is_wanted(pipelines: int | None) -> None:
    world = World(pipelines=pipelines)
    world.core.plane.pipelines.use_constraints(PlanConstraints(objective="throughput" if pipelines else "latency"))
    world.serve("a", "b", "c", "d", memory_mb=HALF_MB)
    assert {plan.pipeline for plan in world.published(Plan)} == {"main"}


def test_a_person_may_ask_for_pipelines_whatever_the_objective() -> None:
    world = World(pipelines=2).serve("a", "b", "c", "d", memory_mb=2000)
    assert [len(nodes_of(world, name)) for name in ("main", "main-2")] == [1, 1]


def test_a_fleet_that_holds_the_model_once_is_one_pipeline() -> None:
    world = make_world().serve("a", "b", "c", memory_mb=HALF_MB)
    assert {plan.pipeline for plan in world.published(Plan)} == {"main"}
    assert len(nodes_of(world, "main")) >= 2


def test_nodes_that_join_form_a_pipeline_beside_the_first() -> None:
    world = make_world().serve("a", "b", memory_mb=HALF_MB)
    request = world.ask()
    world.generate(request, 3)
    world.join("c", "d", memory_mb=HALF_MB)
    world.wait(2.0)
    assert nodes_of(world, "main-2") == {"c", "d"}
    assert plans(world, "main") == 1
    assert finish(world, request) == answer_text(5, 8)


def test_constraints_divide_and_unite_the_fleet() -> None:
    world = World().serve("a", "b", "c", "d", memory_mb=HALF_MB)
    assert {plan.pipeline for plan in world.published(Plan)} == {"main"}
    world.control("apply", 1, objective="throughput")
    world.wait(3.0)
    reply = world.reply(1)
    assert reply
    assert reply.ok
    assert reply.result["changed"]
    assert nodes_of(world, "main") | nodes_of(world, "main-2") == {"a", "b", "c", "d"}
    world.control("apply", 2, objective="latency")
    world.wait(3.0)
    reply = world.reply(2)
    assert reply
    assert reply.ok
    assert world.plan_of("main-2").ring == ()
    assert world.plan_of("main").ring
    world.wait(60.0)
    assert world.plan_of("main").ring


def test_a_fleet_at_rest_is_left_alone(world: World) -> None:
    before = len(world.published(Plan)), world.solves
    world.wait(300.0)
    assert (len(world.published(Plan)), world.solves) == before


def test_a_useless_node_changes_nothing(world: World) -> None:
    before = len(world.published(Plan))
    world.join("tiny", memory_mb=60)
    world.wait(5.0)
    assert len(world.published(Plan)) == before
    world.kill("tiny")
    world.wait(5.0)
    assert len(world.published(Plan)) == before


def test_another_model_is_served_by_both(world: World) -> None:
    from tests.support.scripted_nodes import make_manifest

    world.models["other"] = make_manifest("other")
    world.control("use_model", model="other")
    world.wait(3.0)
    reply = world.reply()
    assert reply
    assert reply.ok
    assert {world.plan_of(name).model for name in ("main", "main-2")} == {"other"}


def test_rebalance_compares_every_pipeline_and_moves_those_that_gain(world: World) -> None:
    second = nodes_of(world, "main-2")
    grown = world.core.plane.fleet.nodes[min(second)]
    birth = grown.birth
    grown.birth = replace(birth, memory_bytes=3 * birth.memory_bytes, speed_flops=20 * birth.speed_flops)
    before = plans(world, "main"), plans(world, "main-2")
    looked = world.control("rebalance", dry_run=True)
    assert looked
    assert [(one["pipeline"], one["moves"]) for one in looked.result["pipelines"]] == [
        ("main", False),
        ("main-2", True),
    ]
    assert (plans(world, "main"), plans(world, "main-2")) == before
    done = world.control("rebalance")
    assert done
    assert done.result == {**looked.result, "changed": True}
    assert nodes_of(world, "main-2") == {min(second)}
    assert plans(world, "main") == before[0]


# --- requests -----------------------------------------------------------------------------------------------------


def test_requests_go_to_the_idle_pipeline(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in (1, 2, 3, 4)]
    assert sorted(world.pipeline_of(request) for request in requests) == ["main", "main", "main-2", "main-2"]
    assert world.pipeline_of(requests[0]) != world.pipeline_of(requests[1])
    for request in requests:
        assert finish(world, request) == answer_text(5, 8)


def test_who_waits_takes_the_first_free_slot(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in range(1, 7)]
    theirs = [request for request in requests[:4] if world.pipeline_of(request) == "main-2"]
    for request in theirs:
        finish(world, request)
    assert [world.pipeline_of(request) for request in requests[4:]] == ["main-2", "main-2"]


def test_a_second_turn_prefers_the_pipeline_that_has_the_first(world: World) -> None:
    first = world.ask(make_submit(1, "a long beginning of a chat"))
    other = world.ask(make_submit(2, "something else entirely"))
    finish(world, first)
    finish(world, other)
    home = {request: world.pipeline_of(request) for request in (first, other)}
    assert home[first] != home[other]
    for number, earlier, prompt in ((3, other, "something else entirely"), (4, first, "a long beginning of a chat")):
        turn = world.ask(make_submit(number, prompt + world.text(earlier)[:3] + ", and then?"))
        assert world.pipeline_of(turn) == home[earlier]
        finish(world, turn)


def test_clients_ask_the_service_by_its_name(world: World) -> None:
    request = world.ask(make_submit(pipeline="main-2"))
    end = world.end(request)
    assert end
    assert "there is no pipeline main-2" in end.reason


def test_a_submission_heard_twice_is_answered_once(world: World) -> None:
    for _ in range(2):
        world.ask(make_submit(1))
    assert sum(pipeline.requests.open_count for pipeline in world.core.plane.pipelines.all) == 1


# --- losses -------------------------------------------------------------------------------------------------------


def test_a_lost_node_leaves_the_other_pipeline_alone(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in (1, 2)]
    for request in requests:
        world.generate(request, 3)
    hurt, well = sorted(requests, key=lambda request: world.pipeline_of(request) == "main")
    assert world.pipeline_of(hurt) == "main-2"
    world.kill(sorted(nodes_of(world, "main-2"))[0])
    world.wait(3.0)
    assert plans(world, "main") == 1
    assert world.plan_of("main-2").ring == ()
    assert world.pipeline_of(hurt) == world.pipeline_of(well) == "main"
    assert finish(world, well) == finish(world, hurt) == answer_text(5, 8)


def test_a_request_waits_for_a_slot_elsewhere_when_its_pipeline_is_gone() -> None:
    world = make_world(slots=1).serve("a", "b", "c", "d", memory_mb=HALF_MB)
    requests = [world.ask(make_submit(number)) for number in (1, 2, 3, 4)]
    for request in requests[:2]:
        world.generate(request, 3)
    world.kill(sorted(nodes_of(world, "main-2"))[0])
    world.wait(30.0)
    for request in sorted(requests, key=lambda request: requests.index(request)):
        assert finish(world, request) == answer_text(5, 8)


def test_a_pipeline_that_lost_a_node_takes_an_idle_one() -> None:
    world = make_world(pipelines=2).serve("a", "b", "c", "d", "e", memory_mb=HALF_MB)
    used = nodes_of(world, "main") | nodes_of(world, "main-2")
    world.wait(1.0)
    world.kill(sorted(nodes_of(world, "main-2"))[0])
    world.wait(3.0)
    assert len(used) >= 4
    assert len(nodes_of(world, "main")) >= 2
    assert len(nodes_of(world, "main-2")) >= 2
    assert not nodes_of(world, "main") & nodes_of(world, "main-2")


def test_the_first_pipeline_may_be_the_one_that_breaks(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in (1, 2)]
    world.kill(sorted(nodes_of(world, "main"))[0])
    world.wait(3.0)
    assert plans(world, "main-2") == 1
    for request in requests:
        assert world.pipeline_of(request) == "main-2"
        assert finish(world, request) == answer_text(5, 8)
    status = world.control("status")
    assert status
    assert status.result["state"] == "serving"
    assert [one["pipeline"] for one in status.result["pipelines"]] == ["main-2"]


def test_when_all_is_lost_requests_are_told_and_a_new_fleet_serves(world: World) -> None:
    request = world.ask()
    world.generate(request, 2)
    for node in "abcd":
        world.kill(node)
    world.wait(10.0)
    end = world.end(request)
    assert end
    assert not isinstance(end, StreamEnd)
    world.join("e", "f", "g", "h", memory_mb=HALF_MB)
    world.wait(3.0)
    assert nodes_of(world, "main") | nodes_of(world, "main-2") == {"e", "f", "g", "h"}


def test_a_node_that_can_not_load_is_left_out(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in (1, 2)]
    hurt = sorted(nodes_of(world, "main-2"))[0]
    world.kill(hurt)
    world.wait(3.0)
    world.join(hurt, memory_mb=HALF_MB, incarnation=2)
    world.nodes[hurt].refuses = "no space left"
    world.wait(5.0)
    assert world.plan_of("main-2").ring == ()
    assert plans(world, "main") == 1
    world.nodes[hurt].refuses = ""
    world.wait(60.0)
    assert len(nodes_of(world, "main-2")) == 2
    assert plans(world, "main") == 1
    for request in requests:
        assert finish(world, request) == answer_text(5, 8)


def test_a_drained_node_gives_its_layers_up(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in (1, 2)]
    node = sorted(nodes_of(world, "main-2"))[0]
    world.core.plane.drain(node, True, world.now_s)
    world.wait(5.0)
    for request in requests:
        assert finish(world, request) == answer_text(5, 8)
    world.wait(5.0)
    assert world.plan_of("main-2").ring == ()
    assert node not in nodes_of(world, "main")
    world.core.plane.drain(node, False, world.now_s)
    world.wait(5.0)
    assert len(nodes_of(world, "main-2")) == 2


# --- starts and ends ----------------------------------------------------------------------------------------------


def old_plan(pipeline: str, generation: int) -> Plan:
    return Plan(
        pipeline=pipeline, epoch=Epoch(generation=generation, counter=3), model="tiny", context_tokens=256, slots=2,
        wire_dtype="fp16", ring=(StageRef(node="a", start=0, stop=6),),
    )  # fmt: skip


def test_a_restart_takes_down_the_plans_of_all_pipelines() -> None:
    world = make_world()
    for name, generation in (("main", 7), ("main-2", 9), ("main-3", 4), ("other", 50), ("main-x", 60)):
        world.event(PlanHeard(old_plan(name, generation), retained=True))
    downs = {plan.pipeline: plan.epoch for plan in world.published(Plan) if not plan.ring}
    assert sorted(downs) == ["main", "main-2", "main-3"]
    world.serve("a", "b", "c", "d", memory_mb=HALF_MB)
    for name in ("main", "main-2"):
        assert world.plan_of(name).epoch.generation > 9


def test_another_orchestrator_may_take_over_any_of_them(world: World) -> None:
    effects = world.event(PlanHeard(old_plan("main-2", 99), retained=False))
    assert any("taken over pipeline main-2" in getattr(effect, "reason", "") for effect in effects)


def test_all_go_down_at_the_end(world: World) -> None:
    from orchestrator.events import (
        Stopping,
    )

    request = world.ask()
    world.event(Stopping())
    assert world.end(request)
    assert world.plan_of("main").ring == world.plan_of("main-2").ring == ()


# --- what operators see -------------------------------------------------------------------------------------------


def test_plan_status_and_replan_cover_all(world: World) -> None:
    plan = world.control("plan", 1)
    assert plan
    assert plan.result["pipeline"] == "main"
    assert [one["pipeline"] for one in plan.result["pipelines"]] == ["main", "main-2"]
    status = world.control("status", 2)
    assert status
    assert [one["state"] for one in status.result["pipelines"]] == ["serving", "serving"]
    world.control("replan", 3)
    world.wait(3.0)
    reply = world.reply(3)
    assert reply
    assert reply.ok
    assert reply.result == {"changed": False}


def test_a_preview_tells_of_the_division() -> None:
    world = World().serve("a", "b", "c", "d", memory_mb=HALF_MB)
    for number, objective, expected in ((1, "throughput", 2), (2, "latency", 1)):
        world.control("preview", number, objective=objective)
        reply = world.reply(number)
        assert reply
        division = reply.result["explanation"].get("division", {"pipelines": [0]})
        assert len(division["pipelines"]) == expected
    assert {plan.pipeline for plan in world.published(Plan)} == {"main"}
