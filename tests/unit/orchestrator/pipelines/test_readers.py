"""Readers: leases, wills, what was missed, and messages that nobody can follow."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.effects import Note
from orchestrator.events import BusDown, BusUp, ClientGone, Malformed, NodeSaid, Renewed, Tick
from orchestrator.requests.answer import Answer, EncodedPrompt
from orchestrator.requests.answer_record import AnswerRecord
from orchestrator.requests.ended_requests import EndedRequest, EndedRequests
from schemas.codec import Flag
from schemas.messages import CloseRequest, RenewRequest, StreamEnd, StreamError, StreamStatus, StreamText
from schemas.topics import REQUEST_STREAM
from tests.support.orchestrating import World
from tests.support.scripted_nodes import VOCABULARY, LetterStream, answer_text, letter, make_heartbeat, make_submit

LEASE_S = 4.0


@pytest.fixture
def world() -> World:
    return World().serve("a", "b", "c")


def ask(world: World, number: int = 1, **changes: Any) -> str:
    return world.ask(make_submit(number, **{"lease_s": LEASE_S, "max_tokens": 50, **changes}))


def renew(world: World, request: str, known_tokens: int | None = None, client: str = "cli") -> list[Any]:
    """Messages that the renewal was answered with; ``known_tokens``: something was missed behind so many."""
    message = RenewRequest(request=request, answer_tokens=known_tokens or 0, repeat=known_tokens is not None)
    effects = world.event(Renewed(client, message))
    topic = REQUEST_STREAM.format(client=client, request=request)
    return [getattr(effect, "message", None) for effect in effects if getattr(effect, "topic", None) == topic]


def wait(world: World, seconds: float, *renewed: str) -> None:
    """Time passes, and these requests are renewed."""
    for _ in range(round(seconds / 0.5)):
        world.wait(0.5)
        for request in renewed:
            renew(world, request)


def is_open(world: World, request: str) -> bool:
    return any(request in node.open for node in world.nodes.values())


def error_of(world: World, request: str) -> StreamError:
    error = world.end(request)
    assert isinstance(error, StreamError)
    return error


# --- leases -----------------------------------------------------------------------------------------------------


def test_a_request_ends_on_the_nodes_when_its_lease_is_over(world: World) -> None:
    request = ask(world)
    world.generate(request, 2)
    world.wait(LEASE_S - 0.1)
    assert is_open(world, request)
    world.wait(0.2)
    assert not is_open(world, request)
    assert all(world.commands(name, CloseRequest) for name in world.plan_nodes())
    assert error_of(world, request).code == "unknown"
    assert "nothing is heard of its reader, cli" in error_of(world, request).reason


def test_a_renewed_request_goes_on(world: World) -> None:
    read, unread = ask(world, 1), ask(world, 2)
    wait(world, 10 * LEASE_S, read)
    assert is_open(world, read)
    assert not is_open(world, unread)
    world.generate(read, 50, flags=Flag.LENGTH)
    assert isinstance(world.end(read), StreamEnd)


def test_a_request_that_waits_for_its_turn_has_a_reader_too(world: World) -> None:
    opened = [ask(world, number) for number in (1, 2)]
    waiting = ask(world, 3)
    wait(world, LEASE_S, *opened)
    assert error_of(world, waiting).code == "unknown"
    assert all(is_open(world, request) for request in opened)


def test_without_a_lease_a_request_lasts_until_it_is_answered(world: World) -> None:
    request = ask(world, lease_s=None)
    world.wait(60.0)
    assert is_open(world, request)


def test_only_its_client_renews_a_request(world: World) -> None:
    request = ask(world)
    world.wait(LEASE_S / 2)
    assert renew(world, request, client="somebody") == []
    world.wait(LEASE_S / 2 + 0.1)
    assert not is_open(world, request)


def test_renewals_that_lie_in_the_socket_count(world: World) -> None:
    """The orchestrator itself stood still: what had arrived by then is handled before anybody counts as gone."""
    request = ask(world)
    world.core.heard_until_s = world.now_s + 1.0
    world.now_s += 10.0
    effects = world.core.handle(Tick(), world.now_s)
    assert not any(isinstance(effect, Note) for effect in effects), "neither the reader nor a node counts as gone"
    world.core.handle(Renewed("cli", RenewRequest(request=request)), world.now_s)
    for node in world.nodes.values():
        world.core.handle(NodeSaid(node.name, make_heartbeat(node.name)), world.now_s)
    world.core.heard_until_s = world.now_s
    world.event(Tick())
    assert is_open(world, request)


# --- lost connections -------------------------------------------------------------------------------------------


def test_a_will_ends_all_requests_of_its_client_within_a_second(world: World) -> None:
    mine = [ask(world, 1), ask(world, 3)]
    other = world.ask(replace(make_submit(2, lease_s=LEASE_S), client="other"))
    world.event(ClientGone("cli"))
    world.wait(1.5)
    assert not any(is_open(world, request) for request in mine)
    assert [error_of(world, request).code for request in mine] == ["unknown", "unknown"]
    assert is_open(world, other)


def test_a_will_ends_requests_without_a_lease_too(world: World) -> None:
    request = ask(world, lease_s=None)
    world.event(ClientGone("cli"))
    world.wait(1.1)
    assert not is_open(world, request)


@pytest.mark.parametrize("lease_s", [None, LEASE_S])
def test_a_client_that_is_back_at_once_loses_nothing(world: World, lease_s: float | None) -> None:
    request = ask(world, lease_s=lease_s)
    world.event(ClientGone("cli"))
    world.wait(0.5)
    renew(world, request)
    world.wait(3.0)
    assert is_open(world, request)


def test_nobody_is_gone_while_the_orchestrator_is_cut_off(world: World) -> None:
    """A broker that restarts cuts everybody off, and clients may take longer to reconnect."""
    request = ask(world)
    world.event(BusDown())
    world.wait(60.0)
    assert is_open(world, request)
    world.event(BusUp(reconnect=True))
    world.wait(9.0)
    assert is_open(world, request)
    renew(world, request)
    world.wait(LEASE_S - 0.5)
    assert is_open(world, request)
    world.wait(1.0)
    assert not is_open(world, request)


# --- what was missed --------------------------------------------------------------------------------------------


def test_what_a_reader_has_missed_is_sent_again(world: World) -> None:
    request = ask(world)
    for _ in range(4):
        world.generate(request, 1)
    told = "".join(message.text for message in world.stream(request) if isinstance(message, StreamText))
    assert renew(world, request) == []
    status, piece = renew(world, request, 1)
    assert status == StreamStatus(request=request, model="tiny"), "somebody is there"
    assert (piece.first_token, piece.first_character, piece.text) == (1, 1, told[1:])
    assert renew(world, request, 4) == [status]


def test_an_answer_that_ended_meanwhile_is_sent_again_with_its_end(world: World) -> None:
    request = ask(world, max_tokens=6)
    world.generate(request, 3)
    world.generate(request, 3, flags=Flag.LENGTH)
    *_, last, end = world.stream(request)
    assert isinstance(end, StreamEnd)
    assert (end.text_tokens, end.text_characters) == (6, 6)
    assert renew(world, request, 3) == [last, end]
    assert renew(world, request, 6) == [end]
    assert renew(world, request, 99) == [end]
    assert renew(world, request) == [], "it is on its way"


@pytest.mark.parametrize("known_tokens", [None, 1])
def test_a_reader_that_comes_back_too_late_asks_again(world: World, known_tokens: int | None) -> None:
    """What he has of the answer, he brings along; it goes on behind that."""
    request = ask(world)
    world.generate(request, 2)
    world.wait(LEASE_S + 1.0)
    (error,) = renew(world, request, known_tokens)
    assert error.code == "unknown"
    ids = tuple(letter(position) for position in (5, 6))
    assert world.ask(make_submit(1, lease_s=LEASE_S, max_tokens=4, answer_ids=ids, answer_model="tiny")) == request
    world.generate(request, 2, flags=Flag.LENGTH)
    *_, last, end = world.stream(request)
    assert (last.first_token, last.text) == (2, answer_text(5, 4)[2:])
    assert isinstance(end, StreamEnd)


def test_an_answer_of_another_model_does_not_go_on(world: World) -> None:
    request = world.ask(make_submit(1, answer_ids=(letter(5),), answer_model="another"))
    assert error_of(world, request).reason == "the model was changed during the answer: ask again"


@pytest.mark.parametrize("known_tokens", [None, 3])
def test_a_request_that_nobody_knows_is_said_to_be_so(world: World, known_tokens: int | None) -> None:
    (error,) = renew(world, "00000000000000ff", known_tokens)
    assert (error.code, error.reason) == ("unknown", "nobody works on this answer any more: ask again")


def test_one_client_is_not_told_what_another_has_read(world: World) -> None:
    request = ask(world, max_tokens=2)
    world.generate(request, 2, flags=Flag.LENGTH)
    (error,) = renew(world, request, 0, client="somebody")
    assert isinstance(error, StreamError)


def test_ended_requests_have_a_bound() -> None:
    def ended(tokens: int) -> EndedRequest:
        answer = Answer(
            "0" * 16, EncodedPrompt("tiny", ()), tokens, VOCABULARY, LetterStream, [letter(n) for n in range(tokens)]
        )
        return EndedRequest(
            "cli", AnswerRecord.of(answer), StreamError(request="0" * 16, code="failed", reason="the end")
        )

    def is_kept(request: str) -> bool:
        return bool(table.told_after(0, client="cli", request=request))

    table = EndedRequests()
    for number in range(1_200):
        table.add(str(number), ended(200))
    assert [number for number in range(1_200) if is_kept(str(number))] == list(range(1_200 - 100_000 // 200, 1_200))
    assert [number for number in range(1_200) if str(number) in table] == list(range(200, 1_200))
    table.add("long", ended(150_000))
    assert (is_kept("long"), is_kept("1199")) == (True, False)
    table.add("next", ended(1))
    assert (is_kept("long"), is_kept("next")) == (False, True)


def test_of_an_ended_request_neither_the_prompt_is_kept_nor_what_bound_the_answer(world: World) -> None:
    def prompts() -> dict[int, EncodedPrompt]:
        gc.collect()
        return {id(thing): thing for thing in gc.get_objects() if type(thing) is EncodedPrompt}

    known = prompts()
    request = ask(world, max_tokens=2)
    (prompt,) = (weakref.ref(thing) for number, thing in prompts().items() if number not in known)
    world.generate(request, 2, flags=Flag.LENGTH)
    gc.collect()
    assert prompt() is None
    *told, end = renew(world, request, 0)
    assert "".join(piece.text for piece in told) == answer_text(5, 2)
    assert isinstance(end, StreamEnd)


# --- what breaks the contract -----------------------------------------------------------------------------------


def test_a_malformed_message_about_a_request_may_be_damaged_and_ends_nothing(world: World) -> None:
    request = ask(world)
    (error,) = world.event(Malformed("cli", request, "request: is missing"))
    assert error.message.code == "malformed"  # type: ignore[union-attr]
    assert error.message.reason == "the message breaks the contract: request: is missing"  # type: ignore[union-attr]
    assert is_open(world, request)


def test_a_malformed_message_is_answered_where_its_sender_reads_and_harms_nobody_else(world: World) -> None:
    request = ask(world)
    for named, answered in ((request, request), (None, "0" * 16)):
        effects = world.event(Malformed("vandal", named, "not JSON"))
        topic = REQUEST_STREAM.format(client="vandal", request=answered)
        (error,) = [effect for effect in effects if getattr(effect, "topic", None) == topic]
        assert error.message.code == "malformed"  # type: ignore[union-attr]
    assert is_open(world, request)
