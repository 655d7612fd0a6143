"""Requests whose answers are bound to a form: compiled first, told to the last stage, and the same after a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.effects import CompileGrammar
from orchestrator.events import NodeSaid, TokensHeard
from orchestrator.requests.answer_form import BROKEN
from schemas.codec import Flag
from schemas.messages import (
    AllowTokens,
    CloseRequest,
    Grammar,
    MasksWanted,
    OpenRequest,
    StreamEnd,
    StreamError,
    StreamText,
    TokenMask,
)
from tests.support.orchestrating import FORMS, World
from tests.support.scripted_nodes import answer_text, letter, make_submit, token_frame

BOUND = Grammar(kind="json_object")
X, Y, Z = map(ord, "xyz")


@pytest.fixture
def world() -> World:
    return World().serve("a", "b", "c")


def last(world: World) -> str:
    return str(world.plan.ring[-1].node)


def told(world: World) -> list[AllowTokens]:
    """What the last stage was told."""
    return world.commands(last(world), AllowTokens)


def hear(world: World, request: str, *ids: int, flags: int = 0) -> None:
    """The last stage publishes its next tokens."""
    frame = token_frame(request, world.plan.epoch, world.position(request), ids, flags)
    world.event(TokensHeard("main", last(world), frame))


def test_an_answer_is_held_to_its_form_and_ends_where_nothing_can_follow(world: World) -> None:
    request = world.ask(make_submit(grammar=BOUND, max_tokens=20))
    opened = world.commands(last(world), OpenRequest)
    assert [one.has_grammar for one in opened] == [True]
    assert not any(one.has_grammar for stage in world.plan.ring[:-1] for one in world.commands(stage.node, OpenRequest))
    (first,) = told(world)
    assert (first.position, first.expected) == (5, tuple(FORMS[0]))
    assert [mask.id is None for mask in first.masks] == [True] * 8 + [False]
    world.generate(request, 8)
    assert told(world) == [first], "nothing new"
    hear(world, request, X)
    assert told(world)[-1].expected[0] == Y
    hear(world, request, Y)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert (end.finish_reason, end.completion_tokens) == ("stop", 10)
    assert world.text(request) == answer_text(5, 8) + "xy"
    assert world.commands(last(world), CloseRequest)


def test_other_answers_are_told_nothing(world: World) -> None:
    request = world.ask()
    world.generate(request, 8, flags=Flag.LENGTH)
    assert told(world) == []
    assert not any(isinstance(effect, CompileGrammar) for effect in world.effects)


def test_a_form_that_can_not_be_compiled_is_refused_before_anything_is_opened(world: World) -> None:
    request = world.ask(make_submit(grammar=Grammar(kind="regex", text="(")))
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert (error.code, error.reason) == ("bad_request", "no such form")
    assert world.published(OpenRequest) == []


def test_a_token_that_may_not_come_ends_the_request_and_is_not_shown(world: World) -> None:
    request = world.ask(make_submit(grammar=BOUND))
    world.generate(request, 3)
    hear(world, request, Z)
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert (error.code, error.reason) == ("failed", BROKEN)
    assert world.text(request) == answer_text(5, 3)
    assert world.commands(last(world), CloseRequest)


def test_a_stage_that_has_forgotten_a_set_is_told_all_again(world: World) -> None:
    request = world.ask(make_submit(grammar=BOUND, max_tokens=20))
    other = world.ask(make_submit(2, grammar=BOUND, max_tokens=20))
    (first, again) = told(world)
    assert first.masks[-1].data
    assert again.masks[-1] == TokenMask(id=first.masks[-1].id), "by its name"
    wanted = MasksWanted(node=last(world), epoch=world.plan.epoch, request=other, position=5)
    for node, message in (
        (world.plan.ring[0].node, replace(wanted, node=world.plan.ring[0].node)),
        (last(world), replace(wanted, position=9)),
        (last(world), replace(wanted, request="f" * 16)),
    ):
        world.event(NodeSaid(node, message))
        assert told(world) == [first, again], "not theirs to ask, or not known yet"
    world.event(NodeSaid(last(world), wanted))
    assert told(world)[-1] == replace(first, request=other)
    assert request != other


def test_silence_leads_to_being_told_again(world: World) -> None:
    request = world.ask(make_submit(grammar=BOUND, max_tokens=20))
    world.generate(request, 2)
    before = len(told(world))
    world.wait(2.5)
    assert len(told(world)) > before
    again = told(world)[-1]
    assert (again.position, again.expected) == (7, tuple(FORMS[0][2:]))
    assert again.masks[-1].data, "whatever it knows"


def test_the_next_start_of_the_orchestrator_goes_on_from_the_tokens(world: World) -> None:
    request = world.ask(make_submit(grammar=BOUND, max_tokens=20, patience_s=60.0))
    world.generate(request, 8)
    hear(world, request, X)
    world.restart()
    world.wait(2.0)
    again = told(world)[-1]
    assert (again.position, again.expected[0]) == (5 + 9, Y)
    hear(world, request, Y)
    assert isinstance(world.end(request), StreamEnd)


def test_a_reader_may_have_more_of_the_answer_than_the_orchestrator(world: World) -> None:
    ids = (*(letter(position) for position in range(5, 13)), Z)
    submit = make_submit(grammar=BOUND, max_tokens=20, answer_ids=ids, answer_model="tiny")
    request = world.ask(submit)
    again = told(world)[-1]
    assert again.position == 5 + 8, "the last token is made once more, which ends the answer"
    world.event(TokensHeard("main", last(world), token_frame(request, world.plan.epoch, 5 + 8, [Z])))
    assert isinstance(world.end(request), StreamEnd)


def test_a_ring_that_breaks_leaves_the_answer_bound(world: World) -> None:
    request = world.ask(make_submit(grammar=BOUND, max_tokens=20, patience_s=60.0))
    world.generate(request, 4)
    world.join("d")
    world.kill(last(world))
    world.wait(3.0)
    again = told(world)[-1]
    assert (again.epoch, again.position) == (world.plan.epoch, 9)
    assert again.masks[-1].data, "the new last stage knows no set"
    pieces = [piece for piece in world.stream(request) if isinstance(piece, StreamText)]
    assert "".join(piece.text for piece in pieces) == answer_text(5, 4)
