"""How likely tokens were: told with the pieces, told again, null where it can't be had, whatever a node sends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from broker.bus import Delivery
from orchestrator.events import Renewed, TokensHeard
from orchestrator.requests.answer import Answer, EncodedPrompt
from orchestrator.requests.answer_logprobs import AnswerLogprobs
from orchestrator.service.inbox import Inbox
from schemas.codec import Dtype, Flag, Kind, pack_frame, request_number
from schemas.limits import LEAST_LOGPROB, MAX_PAYLOAD_BYTES
from schemas.logprobs import Logprobs, pack_logprobs
from schemas.messages import Epoch, LikelyToken, OpenRequest, RenewRequest, StreamText, TokenLogprobs, encode
from schemas.topics import TOKEN
from tests.support.orchestrating import World
from tests.support.scripted_nodes import VOCABULARY, LetterStream, make_submit, token_frame

REQUEST = f"{1:016x}"
EPOCH = Epoch(generation=1, counter=1)


def packed(token: int) -> bytes:
    return pack_logprobs(Logprobs(-0.5, (token, ord("z")), (-0.5, -2.0)))


def told(letter: str) -> TokenLogprobs:
    top = (
        LikelyToken(token_id=ord(letter), text=letter, logprob=-0.5),
        LikelyToken(token_id=ord("z"), text="z", logprob=-2.0),
    )
    return TokenLogprobs(text=letter, logprob=-0.5, top=top)


def make_answer(known: Sequence[int] = (), alternatives: int = 2, stop: Sequence[str] = ()) -> Answer:
    logprobs = AnswerLogprobs(chr, alternatives)
    return Answer(REQUEST, EncodedPrompt("tiny", (0,)), 10_000, VOCABULARY, LetterStream, list(known), stop, logprobs)


def take(answer: Answer, text: str, flags: int = 0) -> list[StreamText]:
    ids = [ord(letter) for letter in text]
    return answer.take(answer.next_position, ids, flags, [packed(token) for token in ids])[0]


def logprobs_of(pieces: Sequence[StreamText]) -> list[TokenLogprobs]:
    return [one for piece in pieces for one in piece.logprobs or ()]


def test_pieces_tell_them_and_tell_them_again() -> None:
    answer = make_answer()
    pieces = [*take(answer, "ab"), *take(answer, "c")]
    assert logprobs_of(pieces) == [told("a"), told("b"), told("c")]
    assert logprobs_of(answer.text_after(1)) == [told("b"), told("c")]


def test_of_tokens_that_were_known_before_they_are_null() -> None:
    answer = make_answer(b"ab")
    assert logprobs_of(take(answer, "c")) == [told("c")]
    assert logprobs_of(answer.text_after(0)) == [TokenLogprobs(text="a"), TokenLogprobs(text="b"), told("c")]


def test_a_frame_that_overlaps_gives_each_token_its_own() -> None:
    answer = make_answer()
    take(answer, "ab")
    pieces, _ = answer.take(2, list(b"bcd"), Flag.LENGTH, [packed(token) for token in b"bcd"])
    assert logprobs_of(pieces) == [told("c"), told("d")]


def test_of_a_stop_string_nothing_is_told() -> None:
    answer = make_answer(stop=["cd"])
    assert logprobs_of([*take(answer, "abc"), *take(answer, "de")]) == [told("a"), told("b")]


def test_without_them_pieces_are_as_they_were() -> None:
    answer = Answer(REQUEST, EncodedPrompt("tiny", (0,)), 100, VOCABULARY, LetterStream)
    (piece,), _ = answer.take(1, [97], 0, [packed(97)])
    assert piece.logprobs is None
    assert b"logprobs" not in encode(piece)


def test_many_at_once_come_in_messages_that_a_broker_takes() -> None:
    answer = make_answer(alternatives=20)
    many = pack_logprobs(Logprobs(-0.123456789, range(0x10000, 0x10014), [-12.3456789] * 20))
    pieces, _ = answer.take(1, [97] * 4096, 0, [many] * 4096)
    assert sum(len(piece.token_ids) for piece in pieces) == 4096
    assert max(len(encode(piece)) for piece in pieces) < MAX_PAYLOAD_BYTES / 20


@pytest.mark.parametrize(
    ("sent", "shown"),
    [(math.nan, None), (math.inf, 0.0), (0.5, 0.0), (-math.inf, LEAST_LOGPROB), (-1e30, LEAST_LOGPROB)],
)
def test_what_is_no_logarithm_of_a_probability_is_not_passed_on(sent: float, shown: float | None) -> None:
    answer = make_answer(alternatives=1)
    pieces, _ = answer.take(1, [97], 0, [pack_logprobs(Logprobs(sent, (-5, 98, 99), (-1.0, sent, -2.0)))])
    (one,) = logprobs_of(pieces)
    assert one.logprob == shown
    assert [(likely.token_id, likely.logprob) for likely in one.top] == [
        (98, shown) if shown is not None else (99, -2.0)
    ]
    encode(pieces[0])


def test_they_come_in_one_message_with_their_tokens() -> None:
    number = request_number(REQUEST)
    tokens = b"".join(
        pack_frame(Kind.TOKENS, Dtype.INT32, 0, 1, request, EPOCH, 0, 7, 0, bytes(4)) for request in (number, 2)
    )
    logprobs = pack_frame(Kind.LOGPROBS, Dtype.FP32, 0, 1, number, EPOCH, 0, 7, 2, packed(5))
    topic = TOKEN.format(pipeline="main", epoch=EPOCH, sender="c", receiver="a")
    heard = Inbox().events(Delivery(topic, tokens + logprobs, qos=0, retain=False))
    assert [event.logprobs for event in heard if isinstance(event, TokensHeard)] == [[packed(5)], ()]


def test_the_last_stage_is_asked_for_them_and_a_restart_loses_them() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask(make_submit(max_tokens=20, logprobs=2, patience_s=600.0))
    ring = [stage.node for stage in world.plan.ring]
    assert [world.commands(node, OpenRequest)[-1].logprobs for node in ring] == [None, None, 2]
    frame = token_frame(request, world.plan.epoch, 5, [97, 98])
    world.event(TokensHeard("main", ring[-1], frame, [packed(97), packed(98)]))
    pieces = [message for message in world.stream(request) if isinstance(message, StreamText)]
    assert logprobs_of(pieces) == [told("a"), told("b")]
    world.restart()
    world.wait(5.0)
    world.event(Renewed("cli", RenewRequest(request=request, repeat=True)))
    frame = token_frame(request, world.plan.epoch, 7, [99])
    before = len(world.stream(request))
    world.event(TokensHeard("main", ring[-1], frame, [packed(99)]))
    world.event(Renewed("cli", RenewRequest(request=request, repeat=True)))
    again = [message for message in world.stream(request)[before:] if isinstance(message, StreamText)]
    assert logprobs_of(again[1:]) == [TokenLogprobs(text="a"), TokenLogprobs(text="b"), told("c")]
