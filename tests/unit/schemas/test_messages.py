"""Messages as a whole: what is encoded is decoded alike, and nothing from the network is worse than MessageError."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import messages
from schemas.errors import MessageError
from schemas.messages import MESSAGES, Epoch, Heartbeat, NodeStatus, OpenRequest, StreamText
from tests.support.json_schema import parse, validator
from tests.support.strategies import examples, instances, json_values, mutated
from tests.support.strategies import messages as any_message

EVERY_MESSAGE = pytest.mark.parametrize("name", list(MESSAGES))
REQUEST = "5f0c3a9e81d7b264"


def decode_or_refusal(payload: bytes, *expected: type) -> Any:
    """The message, or the MessageError that refused it; every other exception fails the test."""
    try:
        return messages.decode(payload, *expected)
    except MessageError as error:
        refusal = error
    text = str(refusal)
    assert text.isascii(), "not for every log"
    assert text.isprintable(), "not one line"
    assert len(text) < 400, "not short"
    return refusal


def to_json(document: Any) -> bytes:
    return json.dumps(document).encode()


@EVERY_MESSAGE
@given(data=st.data())
@examples(12)
def test_round_trip_and_schema(name: str, data: st.DataObject) -> None:
    message = data.draw(instances(MESSAGES[name]))
    payload = messages.encode(message)
    assert messages.decode(payload, MESSAGES[name]) == message
    assert validator(name).is_valid(parse(payload)), payload


@EVERY_MESSAGE
@given(data=st.data())
@examples(25)
def test_mutated_message_is_judged_as_jsonschema_does(name: str, data: st.DataObject) -> None:
    document = parse(messages.encode(data.draw(instances(MESSAGES[name]))))
    document = data.draw(mutated(document))
    result = decode_or_refusal(to_json(document), MESSAGES[name])
    reasons = [error.message for error in validator(name).iter_errors(document)]
    assert isinstance(result, MessageError) is bool(reasons), (result, reasons)


EVIL = "\x1b[31mEVIL\x1b]0;pwn\x07\r\nFAKE INFO line \u2028\u202e\x9b\x85\u200b"
VERBATIM = {"content", "prompt", "text", "description", "parameters"}
"""Of conversations, tools and answers: each character counts, for the model. Everything else is shown to people."""


def with_evil(document: Any, is_taken: Callable[[], bool]) -> None:
    """Put EVIL wherever a whole message that has it there is taken."""
    for place, value in list(document.items() if isinstance(document, dict) else enumerate(document)):
        if isinstance(value, dict | list):
            with_evil(value, is_taken)
        elif isinstance(value, str):
            document[place] = EVIL
            if not is_taken():
                document[place] = value


def unprintable(value: Any, member: str = "") -> Iterator[str]:
    """The names of members with text that is not printable."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from unprintable(getattr(value, field.name), field.name)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from unprintable(item, member)
    elif isinstance(value, dict):
        yield from unprintable([*value, *value.values()], member)
    elif isinstance(value, str) and not value.isprintable():
        yield member


@EVERY_MESSAGE
@given(data=st.data())
@examples(6)
def test_what_is_shown_to_people_is_printable(name: str, data: st.DataObject) -> None:
    cls = MESSAGES[name]
    document = parse(messages.encode(data.draw(instances(cls))))
    with_evil(document, lambda: not isinstance(decode_or_refusal(to_json(document), cls), MessageError))
    assert set(unprintable(messages.decode(to_json(document), cls))) <= VERBATIM


def test_last_words_are_read_without_what_they_do_to_a_terminal() -> None:
    status = {"type": "node.status", "v": 1, "node": "a", "incarnation": 0, "online": False, "reason": EVIL}
    reason = messages.decode(to_json(status), NodeStatus).reason
    assert reason == "\ufffd[31mEVIL\ufffd]0;pwn\ufffd  FAKE INFO line  \ufffd\ufffd \ufffd"
    piece = StreamText(request=REQUEST, first_token=0, first_character=0, text=EVIL, token_ids=())
    assert messages.decode(messages.encode(piece), StreamText).text == EVIL


@given(document=json_values(), name=st.sampled_from(list(MESSAGES)), wrapped=st.booleans())
@examples(200)
def test_arbitrary_json(document: Any, name: str, wrapped: bool) -> None:
    if wrapped and isinstance(document, dict):
        document = {**document, "type": name, "v": 1}
    result = decode_or_refusal(to_json(document), *MESSAGES.values())
    assert isinstance(result, MessageError | MESSAGES[name])


@given(payload=st.binary(max_size=60))
@examples(200)
def test_arbitrary_bytes(payload: bytes) -> None:
    assert isinstance(decode_or_refusal(payload, *MESSAGES.values()), MessageError)


@given(message=any_message(), data=st.data())
@examples(150)
def test_damaged_bytes(message: Any, data: st.DataObject) -> None:
    payload = bytearray(messages.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refusal(bytes(payload[: data.draw(st.integers(0, len(payload)))]), type(message))
    result = decode_or_refusal(bytes(payload), type(message))
    if not isinstance(result, MessageError):
        assert messages.decode(messages.encode(result), type(message)) == result, "taken, but can't be passed on"


@given(message=any_message())
@examples(60)
def test_only_expected_types_are_taken(message: Any) -> None:
    others = [cls for cls in MESSAGES.values() if cls is not type(message)]
    with pytest.raises(MessageError, match=r"^type: "):
        messages.decode(messages.encode(message), *others)
    assert messages.decode(messages.encode(message), *MESSAGES.values()) == message


@given(message=any_message())
@examples(60)
def test_messages_are_immutable(message: Any) -> None:
    for field in dataclasses.fields(message):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, None)


@pytest.mark.parametrize("nesting", ["[", '{"a":', '{"type":['])
def test_bottomless_nesting(nesting: str) -> None:
    payload = nesting.encode() * (messages.MAX_MESSAGE_BYTES // len(nesting))
    assert isinstance(decode_or_refusal(payload, *MESSAGES.values()), MessageError)
    closed = ('{"type":' + "[" * 900 + "]" * 900 + ',"v":' + "[" * 900 + "]" * 900 + "}").encode()
    assert isinstance(decode_or_refusal(closed, *MESSAGES.values()), MessageError)


def test_names_from_the_network_stay_on_one_line() -> None:
    for name in ("two\nlines", "\x1b[31mred", "\ud800", "é" * 1000):
        for document in (
            {"type": name, "v": 1},
            {"type": "plan", "v": name},
            {"type": "command.close", "v": 1, "request": REQUEST, name: 1},
            {"type": "command.close", "v": 1, "request": name},
        ):
            assert isinstance(decode_or_refusal(to_json(document), *MESSAGES.values()), MessageError)


def test_the_longest_prompt_fits_and_the_size_limit_holds() -> None:
    def request(tokens: int) -> OpenRequest:
        return OpenRequest(
            pipeline="main",
            epoch=Epoch(generation=1, counter=1),
            stage=0,
            request=REQUEST,
            prompt_tokens=tokens,
            max_tokens=1,
            prompt_ids=(151_935,) * tokens,
        )

    payload = messages.encode(request(200_000))
    assert messages.decode(payload, OpenRequest) == request(200_000)
    with pytest.raises(MessageError, match="bytes, allowed are 1500000"):
        messages.encode(request(250_000))
    padded = payload + b" " * (messages.MAX_MESSAGE_BYTES - len(payload))
    assert messages.decode(padded, OpenRequest) == request(200_000)
    with pytest.raises(MessageError, match="bytes, allowed are 1500000"):
        messages.decode(padded + b" ", OpenRequest)


@pytest.mark.parametrize("text", ["\ud800", "half a tower \udd00"])
def test_what_json_cannot_carry_is_not_sent(text: str) -> None:
    with pytest.raises(MessageError, match=r"stream\.text can't be sent"):
        messages.encode(StreamText(request=REQUEST, first_token=0, first_character=0, text=text, token_ids=()))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), struct.unpack("<e", b"\0\xfc")[0]])
def test_not_finite_numbers_are_not_sent(number: float) -> None:
    beat = Heartbeat(
        node="n", incarnation=1, uptime_s=number, rss_bytes=1, peak_rss_bytes=1, available_bytes=1, blob_bytes=0
    )
    with pytest.raises(MessageError, match=r"node\.heartbeat can't be sent"):
        messages.encode(beat)


def test_optional_members_left_out_come_back_as_their_defaults() -> None:
    document = {"type": "node.heartbeat", "v": 1, "node": "n", "incarnation": 1, "uptime_s": 0, "rss_bytes": 1,
                "peak_rss_bytes": 1, "available_bytes": 1, "blob_bytes": 0}  # fmt: skip
    heartbeat = messages.decode(to_json(document), Heartbeat)
    assert (heartbeat.battery_percent, heartbeat.stages, heartbeat.reconnects) == (None, (), 0)
    assert b"battery_percent" not in messages.encode(heartbeat)


def test_epochs_are_ordered_by_generation_then_counter() -> None:
    epochs = [Epoch(generation=g, counter=c) for g in (1, 2) for c in (1, 10, 9)]
    assert [str(e) for e in sorted(epochs)] == ["1-1", "1-9", "1-10", "2-1", "2-9", "2-10"]
