"""Another start of the orchestrator: the plan that was left goes on, and so do the requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.effects import Note, OpenModel
from orchestrator.events import BusDown, BusUp, ModelOpened, NodeSaid, PlanHeard, Renewed
from orchestrator.model.kv_rounding import IN_HALVES, KvRounding
from orchestrator.model.served import ServedModel
from schemas.codec import Flag
from schemas.messages import (
    Epoch,
    KeepRequests,
    NodeStatus,
    OpenRequest,
    Plan,
    PrepareSegment,
    RenewRequest,
    ResendTokens,
    StreamEnd,
    StreamError,
    StreamStatus,
    StreamText,
)
from schemas.topics import REQUEST_STREAM
from tests.support.orchestrating import World
from tests.support.scripted_nodes import Letters, answer_text, int8_in, letter, make_birth, make_manifest, make_submit


@pytest.fixture
def world() -> World:
    return World().serve("a", "b", "c")


def whole_text(world: World, request: str) -> str:
    """What a reader has who takes each piece once."""
    text = ""
    for piece in world.stream(request):
        if isinstance(piece, StreamText):
            assert piece.first_character <= len(text), "a hole"
            text = text[: piece.first_character] + piece.text
    return text


def plans_in_force(world: World) -> list[Plan]:
    newest = {plan.pipeline: plan for plan in world.published(Plan)}
    return [plan for plan in newest.values() if plan.ring]


def notes(world: World) -> list[Note]:
    return [effect for effect in world.effects if isinstance(effect, Note)]


def given_up(world: World) -> list[str]:
    """Why plans that were left were given up."""
    return [note.text.partition("is given up: ")[2] for note in notes(world) if note.kind == "given_up"]


def comes_back(world: World, name: str) -> None:
    """A node's connection is back, and with it what it has said of itself."""
    node = world.nodes[name]
    node.alive = True
    world.event(NodeSaid(name, node.birth))
    world.event(NodeSaid(name, NodeStatus(node=name, incarnation=node.birth.incarnation, online=True)))


def prepared(world: World) -> int:
    return len(world.published(PrepareSegment))


def test_a_running_plan_is_adopted_and_its_requests_go_on(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    epoch, before = world.plan.epoch, prepared(world)
    world.restart()
    world.wait(1.5)
    assert (world.plan.epoch, prepared(world)) == (epoch, before), "nothing was loaded anew"
    assert world.core.plane.pipeline.state() == "serving"
    last = world.plan.ring[-1].node
    assert world.commands(last, ResendTokens)[-1] == ResendTokens(request=request, position=5 + 3)
    assert all(keep.requests == (request,) for keep in world.published(KeepRequests))
    world.generate(request, 5, flags=Flag.LENGTH)
    assert whole_text(world, request) == answer_text(5, 8)
    assert isinstance(world.end(request), StreamEnd)


def test_tokens_that_were_made_meanwhile_are_asked_for(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    world.restart()
    world.wait(1.5)
    world.generate(request, 8, start=5, flags=Flag.LENGTH)  # the last stage says all of it once more
    assert whole_text(world, request) == answer_text(5, 8)


def test_requests_that_wait_for_their_turn_are_kept_too(world: World) -> None:
    running = [world.ask(make_submit(number)) for number in (1, 2)]
    waiting = world.ask(make_submit(3))
    world.restart()
    world.wait(1.5)
    for request in running:
        world.generate(request, 8, flags=Flag.LENGTH)
    world.generate(waiting, 8, flags=Flag.LENGTH)
    assert [whole_text(world, request) for request in (*running, waiting)] == 3 * [answer_text(5, 8)]


def test_a_ring_that_broke_meanwhile_is_replaced_and_requests_go_on_behind_what_was_saved(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    gone = world.plan.ring[1].node
    world.nodes[gone].alive = False
    before = world.plan.epoch
    world.join("d")
    world.restart()
    world.wait(8.0)
    assert world.plan.epoch > before
    assert gone not in {stage.node for stage in world.plan.ring}
    opened = [command for command in world.published(OpenRequest) if command.epoch == world.plan.epoch]
    ids = tuple(letter(position) for position in range(5, 8))
    assert opened[-1].prompt_ids[-3:] == ids
    world.generate(request, 5, flags=Flag.LENGTH)
    assert whole_text(world, request) == answer_text(5, 8)


def test_a_node_that_goes_before_its_plan_is_adopted_is_replaced(world: World) -> None:
    """It has said that it holds its part, and is killed while the model is being opened."""
    request = world.ask()
    world.generate(request, 3)
    before, gone = world.plan.epoch, world.plan.ring[1].node
    world.hold = (OpenModel,)
    world.restart()
    world.wait(2.0)
    world.kill(gone)
    world.join(gone, incarnation=2)
    world.wait(2.0)
    world.hold = ()
    world.event(ModelOpened("tiny", ServedModel(world.models["tiny"], Letters(), wire=world.model_wire)))
    world.wait(8.0)
    assert world.plan.epoch > before
    world.generate(request, 5, flags=Flag.LENGTH)
    assert whole_text(world, request) == answer_text(5, 8)


def test_a_node_that_started_again_meanwhile_is_no_part_of_the_old_plan(world: World) -> None:
    name = world.plan.ring[0].node
    before = world.plan.epoch
    world.nodes[name].birth = make_birth(name, incarnation=2)
    world.nodes[name].prepared.clear()
    world.restart()
    world.wait(8.0)
    assert world.plan.epoch > before
    assert world.plan.ring


def test_a_plan_for_another_model_is_not_adopted(world: World) -> None:
    before = world.plan.epoch
    world.models["other"] = replace(world.models["tiny"], name="other")
    world._options["model"] = "other"
    world.restart()
    world.wait(5.0)
    assert world.plan.epoch > before
    assert world.plan.model == "other"


@pytest.mark.parametrize("before", [None, IN_HALVES, int8_in(0, 1, 2, 3), int8_in(0, 1, 2)])
def test_a_plan_whose_keys_and_values_are_kept_otherwise_is_not_adopted(before: KvRounding | None) -> None:
    """After a start with another ``--kv``, or with other scales: rows that lie on nodes mean something else then."""
    floats = make_manifest()
    world = World(models={"tiny": floats.with_rounded_kv(before) if before else floats}).serve("a", "b", "c")
    assert world.plan.kv_rounding == (before and before.name)
    epoch = world.plan.epoch
    world.restart()
    world.wait(5.0)
    assert world.plan.epoch == epoch, "as it was"
    world.models["tiny"] = floats.with_rounded_kv(after := int8_in(0, 1, 3))
    world.restart()
    world.wait(8.0)
    assert world.plan.epoch > epoch
    assert world.plan.kv_rounding == after.name


def test_an_orchestrator_without_its_database_goes_on_with_what_readers_bring(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    world.restart(database=False)
    effects = world.event(Renewed("cli", RenewRequest(request=request, answer_tokens=3)))
    topic = REQUEST_STREAM.format(client="cli", request=request)
    (error,) = [effect.message for effect in effects if getattr(effect, "topic", None) == topic]
    assert isinstance(error, StreamError)
    assert error.code == "unknown"
    ids = tuple(letter(position) for position in range(5, 8))
    world.ask(make_submit(answer_ids=ids, answer_model="tiny"))
    world.wait(1.5)
    world.generate(request, 5, flags=Flag.LENGTH)
    assert whole_text(world, request) == answer_text(5, 8)


def asked_and_begun(world: World, **changes: Any) -> str:
    """A request whose first three tokens came after 2 s, and the newest of them 3 s ago."""
    request = world.ask(make_submit(**changes))
    world.wait(2.0)
    world.generate(request, 3)
    world.wait(3.0)
    return request


def times_of(world: World, request: str) -> tuple[float, float]:
    """Time to the first token and in all, as the reader is told at the end; the rest of the answer comes now."""
    world.generate(request, 5, flags=Flag.LENGTH)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    return end.ttft_s, end.total_s


def test_the_times_of_an_answer_begin_with_its_question_not_with_the_restart(world: World) -> None:
    request = asked_and_begun(world)
    world.restart()
    world.wait(1.5)
    assert times_of(world, request) == pytest.approx((2.0, 6.5))


def test_an_orchestrator_without_its_database_takes_the_times_of_readers(world: World) -> None:
    request = asked_and_begun(world)
    world.restart(database=False)
    ids = tuple(letter(position) for position in range(5, 8))
    world.ask(make_submit(answer_ids=ids, answer_model="tiny", age_s=5.0, ttft_s=2.0))
    world.wait(1.5)
    assert times_of(world, request) == pytest.approx((2.0, 6.5))


def test_a_first_token_does_not_come_after_the_last(world: World) -> None:
    """Whatever a reader says."""
    request = asked_and_begun(world)
    world.restart(database=False)
    ids = tuple(letter(position) for position in range(5, 8))
    world.ask(make_submit(answer_ids=ids, answer_model="tiny", age_s=5.0, ttft_s=1e9))
    world.wait(1.5)
    assert times_of(world, request) == pytest.approx((6.5, 6.5))


def test_a_reader_with_more_of_the_answer_than_was_saved_brings_it(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    for name in world.nodes:
        world.kill(name)
    world.restart()
    effects = world.event(Renewed("cli", RenewRequest(request=request, answer_tokens=4)))
    assert [getattr(effect, "message", None).code for effect in effects] == ["unknown"]  # type: ignore[union-attr]
    ids = tuple(letter(position) for position in range(5, 9))
    world.ask(make_submit(answer_ids=ids, answer_model="tiny"))
    world.join("d", "e", "f")
    world.wait(4.0)
    assert world.published(OpenRequest)[-1].prompt_ids[-4:] == ids


def test_an_answer_does_not_go_on_with_another_model_than_it_was_begun_with(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    world.models["other"] = replace(world.models["tiny"], name="other")
    world._options["model"] = "other"
    world.restart()
    world.wait(5.0)
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert error.reason == "the model was changed during the answer: ask again"


def test_nobody_else_says_what_a_reader_has(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    for name in world.nodes:
        world.kill(name)
    world.restart()
    ids = tuple(letter(position) for position in range(5, 9))
    world.ask(make_submit(client="mallory", answer_ids=ids, answer_model="tiny"))
    world.join("d", "e", "f")
    world.wait(4.0)
    opened = [command for command in world.published(OpenRequest) if command.request == request]
    assert opened[-1].prompt_ids[-3:] == ids[:3]


def test_two_plans_that_were_left_are_both_taken_down() -> None:
    world = World(pipelines=2).up()
    world.join("a", "b", "c", "d", memory_mb=300)
    world.wait(3.0)
    left = {plan.pipeline: plan.epoch for plan in plans_in_force(world)}
    assert len(left) == 2
    world.restart()
    world.wait(5.0)
    assert all(plan.epoch.generation == 2 for plan in plans_in_force(world))


def test_a_live_rivals_plan_is_no_plan_that_was_left(world: World) -> None:
    """Only what the broker kept is."""
    plan = world.plan
    world.core = world._new_core()
    world.event(NodeSaid("a", world.nodes["a"].birth))
    assert not world.core.plane.pipelines.heard_plan(plan, retained=False)[1]
    assert world.core.plane.pipeline.adopter.plan is None


def left_in_a_plan_that_is_gone(world: World) -> str:
    """A request with a part of its answer; no node holds its stage any more."""
    request = world.ask(make_submit(max_tokens=20, patience_s=600.0, lease_s=4.0))
    world.generate(request, 3)
    for name in world.plan_nodes():
        world.nodes[name].prepared.clear()
    return request


def test_what_another_orchestrator_may_have_answered_is_not_begun_before_its_reader_is_heard(world: World) -> None:
    """The plan that it was opened in is no longer in force: somebody else has served since."""
    request = left_in_a_plan_that_is_gone(world)
    saved = world.saved()
    assert saved[0].epoch
    world.restart()
    opened = len(world.commands(world.plan_nodes()[0], OpenRequest))
    world.wait(8.0)
    assert world.plan.ring
    assert len(world.commands(world.plan_nodes()[0], OpenRequest)) == opened
    world.event(Renewed("cli", RenewRequest(request=request, answer_tokens=3)))
    assert len(world.commands(world.plan_nodes()[0], OpenRequest)) == opened + 1


def test_a_request_whose_reader_is_not_heard_is_forgotten_without_a_step_or_a_word(world: World) -> None:
    """He may have the whole answer by now: he would be told that it had failed."""
    request = left_in_a_plan_that_is_gone(world)
    world.restart()
    opened, told = len(world.published(OpenRequest)), len(world.stream(request))
    world.wait(20.0)
    assert len(world.published(OpenRequest)) == opened
    assert all(isinstance(message, StreamStatus) for message in world.stream(request)[told:])
    assert world.saved() == ()
    (note,) = [note for note in notes(world) if "is forgotten" in note.text]
    assert not note.warning
    (error,) = world.event(Renewed("cli", RenewRequest(request=request, answer_tokens=3)))
    assert error.message.code == "unknown", "he may ask again"  # type: ignore[union-attr]


def test_what_somebody_else_has_ended_is_not_opened_again_in_the_plan_that_he_went_on_with(world: World) -> None:
    request = world.ask(make_submit(max_tokens=20, patience_s=600.0, lease_s=4.0))
    world.generate(request, 3)
    epoch, opened = world.plan.epoch, len(world.published(OpenRequest))
    world.restart(served_elsewhere=True)
    world.wait(2.0)
    assert world.plan.epoch == epoch
    assert [keep.requests for keep in world.published(KeepRequests)] == 3 * [()]
    world.event(Renewed("cli", RenewRequest(request=request, answer_tokens=3)))
    assert len(world.published(OpenRequest)) > opened, "who is not done goes on here"


# --- how long a plan that was left is waited for ------------------------------------------------------------------


def test_a_plan_goes_on_where_nodes_come_one_after_the_other(world: World) -> None:
    """Each takes longer than that usually takes, as on a busy machine."""
    epoch = world.plan.epoch
    for node in world.nodes.values():
        node.alive = False
    world.restart(missing=tuple(world.nodes))
    world.wait(2.0)
    for name in world.nodes:
        comes_back(world, name)
        world.wait(2.9)
    assert world.plan.epoch == epoch
    assert world.core.plane.pipeline.state() == "serving"
    assert given_up(world) == []


def test_nobody_is_missed_before_anybody_is_heard(world: World) -> None:
    """The broker has just come up, too: there is no other plan to hurry for, and the log and the status say for whom
    this one waits."""
    epoch = world.plan.epoch
    for node in world.nodes.values():
        node.alive = False
    world.restart(missing=tuple(world.nodes))
    world.wait(20.0)
    first, second, third = dict.fromkeys(stage.node for stage in world.plan.ring)
    names = f"{first}, {second} and {third}"
    assert [note.text for note in notes(world) if "waits for" in note.text] == [
        f"epoch {epoch} of main, left by an earlier start, waits for {names}"
    ]
    assert world.core.plane.status().reason == f"the plan that was left waits for {names}"
    for name in world.nodes:
        comes_back(world, name)
    world.wait(2.0)
    assert world.plan.epoch == epoch
    assert world.core.plane.status().reason == ""


def test_who_is_not_heard_of_while_the_others_are_is_not_waited_for_for_long(world: World) -> None:
    epoch, lost = world.plan.epoch, world.plan.ring[1].node
    world.nodes[lost].alive = False
    world.restart()
    world.event(NodeSaid(lost, NodeStatus(node=lost, incarnation=1, online=True), retained=True))
    world.wait(5.0)
    assert given_up(world) == [f"{lost} is not heard of with its part"]
    assert world.plan.epoch > epoch


def test_several_that_are_not_heard_of_are_told_in_a_sentence(world: World) -> None:
    others = world.plan_nodes()[1:]
    for name in others:
        world.nodes[name].alive = False
    world.restart()
    world.wait(5.0)
    assert given_up(world) == [f"{' and '.join(others)} are not heard of with their parts"]


def test_who_is_heard_without_his_part_ends_the_wait(world: World) -> None:
    name = world.plan.ring[1].node
    world.nodes[name].prepared.clear()
    world.restart()
    world.wait(1.1)
    assert given_up(world) == [f"{name} does not hold its part any more"]


def test_who_has_started_again_ends_the_wait(world: World) -> None:
    name = world.plan.ring[1].node
    world.kill(name)
    world.restart()
    world.join(name, incarnation=2)
    assert given_up(world) == [f"{name} has started again"]


def test_a_broker_that_goes_away_meanwhile_costs_the_plan_nothing(world: World) -> None:
    epoch = world.plan.epoch
    for node in world.nodes.values():
        node.alive = False
    world.restart()
    world.wait(0.5)
    world.event(BusDown())
    world.wait(300.0)
    for node in world.nodes.values():
        node.alive = True
    world.event(BusUp(reconnect=True))
    world.wait(2.0)
    assert world.plan.epoch == epoch


# --- a broker that has forgotten the plan, too --------------------------------------------------------------------


def test_a_plan_that_only_the_database_has_goes_on_and_the_broker_is_told_it_again(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    plan, before = world.plan, prepared(world)
    for node in world.nodes.values():
        node.alive = False
    world.restart(broker=False)
    told = len(world.published(Plan))
    world.wait(1.0)
    for name in world.nodes:
        comes_back(world, name)
    world.wait(2.0)
    assert world.published(Plan)[told:] == [plan]
    assert prepared(world) == before, "nothing was loaded anew"
    world.generate(request, 5, flags=Flag.LENGTH)
    assert whole_text(world, request) == answer_text(5, 8)


def test_a_newer_plan_that_the_broker_has_wins_over_the_databases_one(world: World) -> None:
    """Somebody else has served since. What the broker kept may come after all else that was subscribed to."""
    mine = world.plan
    theirs = replace(mine, epoch=Epoch(generation=9, counter=1))
    for node in world.nodes.values():
        node.prepared[theirs.epoch] = node.prepared.pop(mine.epoch, {})
    world.restart(broker=False)
    for name in world.nodes:
        comes_back(world, name)
    world.wait(1.4)
    assert given_up(world) == []
    world.event(PlanHeard(theirs, retained=True))
    world.wait(2.0)
    assert world.plan == theirs
    assert world.core.plane.pipelines.generation == 10


def test_a_plan_that_somebody_else_has_taken_down_is_not_adopted(world: World) -> None:
    mine = world.plan
    world.restart(broker=False)
    world.event(PlanHeard(replace(mine, epoch=Epoch(generation=9, counter=1), ring=(), starts=()), retained=True))
    for name in world.nodes:
        comes_back(world, name)
    world.wait(5.0)
    assert given_up(world) == []
    assert world.plan.epoch > Epoch(generation=9, counter=1)


def test_the_databases_plan_wins_over_an_older_one_that_the_broker_has(world: World) -> None:
    """A broker that is killed comes back with what it had written some time before."""
    plan = world.plan
    world.restart(broker=False)
    world.event(PlanHeard(replace(plan, epoch=Epoch(generation=0, counter=9)), retained=True))
    for name in world.nodes:
        comes_back(world, name)
    world.wait(3.0)
    assert world.plan == plan
    assert world.core.plane.pipeline.state() == "serving"
