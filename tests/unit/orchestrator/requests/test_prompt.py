"""Prompts are made beside the core: what waits for one, and what becomes of it meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.effects import EncodePrompt, Note
from orchestrator.events import Cancelled, PromptEncoded, PromptUnusable
from orchestrator.model.errors import BrokenTemplate
from orchestrator.model.prompt import PromptRefused, encode_prompt
from schemas.messages import CancelRequest, OpenRequest, StreamEnd, StreamError
from tests.support.orchestrating import World
from tests.support.scripted_nodes import Letters, make_manifest, make_submit

IDS = tuple(b"hello")


@pytest.fixture
def world() -> World:
    """Prompts are made when the test says so."""
    world = World(models={"tiny": make_manifest(), "other": make_manifest("other")}).serve("a", "b", "c")
    world.hold = (EncodePrompt,)
    return world


def jobs(world: World) -> list[tuple[str, str]]:
    return [(e.request, e.model) for e in world.effects if isinstance(e, EncodePrompt)]


def opened(world: World, request: str) -> bool:
    return any(command.request == request for command in world.published(OpenRequest))


def unusable(request: str, model: str = "tiny") -> PromptUnusable:
    return PromptUnusable(request, model, "bad_request", "it refuses: my secret", "it refuses")


def test_a_request_is_opened_when_its_prompt_is_made(world: World) -> None:
    request = world.ask()
    world.wait(3.0)
    assert jobs(world) == [(request, "tiny")], "asked for once"
    assert not opened(world, request)
    world.event(PromptEncoded(request, "tiny", IDS))
    assert opened(world, request)


def test_a_prompt_that_takes_long_holds_up_no_other(world: World) -> None:
    slow, quick = world.ask(make_submit(1)), world.ask(make_submit(2))
    world.event(PromptEncoded(quick, "tiny", IDS))
    assert (opened(world, slow), opened(world, quick)) == (False, True)


def test_prompts_of_those_who_wait_for_a_slot_are_made_meanwhile(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in (1, 2, 3)]
    assert [request for request, _ in jobs(world)] == requests
    for request in requests:
        world.event(PromptEncoded(request, "tiny", IDS))
    assert [opened(world, request) for request in requests] == [True, True, False]
    world.event(Cancelled("cli", CancelRequest(request=requests[0])))
    assert opened(world, requests[2])


def test_a_prompt_that_can_not_be_made_is_told_to_the_asker_and_not_to_the_log(world: World) -> None:
    request = world.ask()
    effects = world.event(unusable(request))
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert (error.code, error.reason) == ("bad_request", "it refuses: my secret")
    notes = [effect.text for effect in effects if isinstance(effect, Note)]
    assert any("it refuses" in note for note in notes)
    assert not any("secret" in note for note in notes)
    story = world.core.plane.stories.story(request)
    assert story
    told = [text for entry in story.entries for text in (entry.cause, *entry.decisions)]
    assert "told the client: bad_request: it refuses" in told
    assert not any("secret" in text for text in told)


def test_who_gave_up_gets_nothing_more(world: World) -> None:
    request = world.ask()
    world.event(Cancelled("cli", CancelRequest(request=request)))
    assert isinstance(world.end(request), StreamEnd)
    for late in (PromptEncoded(request, "tiny", IDS), unusable(request)):
        assert world.event(late) == []


def test_a_turn_that_never_gets_its_prompt_is_busy(world: World) -> None:
    request = world.ask()
    world.wait(200.0)
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert error.code == "busy"


def test_another_model_needs_another_prompt(world: World) -> None:
    request = world.ask()
    world.control("use_model", model="other")
    world.wait(5.0)
    assert jobs(world) == [(request, "tiny"), (request, "other")]
    for of_the_old_one in (PromptEncoded(request, "tiny", (1, 2, 3)), unusable(request)):
        world.event(of_the_old_one)
        assert not opened(world, request)
    world.event(PromptEncoded(request, "other", IDS))
    told = [len(command.prompt_ids) for command in world.published(OpenRequest) if command.prompt_ids]
    assert told == [len(IDS)] * 2, "the last stage, which guesses, and the first"


def test_what_a_template_says_is_not_for_the_log() -> None:
    class Strict(Letters):
        def encode_chat(self, messages: object, tools: object = ()) -> list[int]:
            raise BrokenTemplate("it refuses", "my secret")

    with pytest.raises(PromptRefused) as refused:
        encode_prompt(replace(make_submit(), prompt=None), Strict())
    assert (refused.value.reason, refused.value.summary) == ("it refuses: my secret", "it refuses")
