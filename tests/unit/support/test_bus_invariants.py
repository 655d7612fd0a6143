"""The checker of all messages finds each thing that should never be."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.codec import Dtype, Flag, Frame, Kind, encode_frame
from schemas.messages import Epoch, NodeStatus, Plan, StageRef, StreamEnd, StreamError, StreamStatus, StreamText, encode
from schemas.topics import NODE_HEARTBEAT, NODE_STATUS, PLAN, REQUEST_STREAM, SEGMENT
from tests.support.bus_invariants import BusInvariants
from tests.support.scripted_nodes import make_heartbeat

REQUEST = "00000000000000ab"
RING = (StageRef(node="a", start=0, stop=2), StageRef(node="b", start=2, stop=4))


def step(seen: BusInvariants, position: int, attempt: int = 0, counter: int = 1, stage: int = 1) -> None:
    epoch = Epoch(generation=1, counter=counter)
    frame = Frame(
        Kind.ACTIVATION, 0xAB, epoch, attempt, position, 1, 2, Dtype.FP32, int(Flag.SAMPLE), b"\0" * 8
    )  # fmt: skip
    topic = SEGMENT.format(pipeline="main", epoch=epoch, stage=stage, sender="a", receiver="b")
    seen.take(topic, encode_frame(frame))


def plan(
    seen: BusInvariants, generation: int, counter: int, *, pipeline: str = "main", retained: bool = False, **other: Any
) -> None:
    message = Plan(
        pipeline=pipeline, epoch=Epoch(generation=generation, counter=counter), model="m", context_tokens=256,
        slots=other.get("slots", 2), wire_dtype="fp32", ring=RING,
    )  # fmt: skip
    seen.take(PLAN.format(pipeline=pipeline), encode(message), retained=retained)


def told(seen: BusInvariants, message: StreamText | StreamEnd | StreamError) -> None:
    seen.take(REQUEST_STREAM.format(client="c", request=REQUEST), encode(message))


def piece(first: int, *token_ids: int) -> StreamText:
    """Each token is a character."""
    text = "".join(map(chr, token_ids))
    return StreamText(request=REQUEST, first_token=first, first_character=first, text=text, token_ids=token_ids)


def end(tokens: int, said: int, reason: Any = "length") -> StreamEnd:
    return StreamEnd(
        request=REQUEST, finish_reason=reason, prompt_tokens=3, completion_tokens=tokens, ttft_s=0.1, total_s=0.2,
        text_tokens=said, text_characters=said,
    )  # fmt: skip


def good(seen: BusInvariants) -> None:
    """All that may be."""
    plan(seen, 1, 1)
    plan(seen, 1, 1)
    plan(seen, 1, 2)
    plan(seen, 1, 2, pipeline="main-2")
    plan(seen, 2, 1)
    plan(seen, 1, 2, retained=True)
    step(seen, 0)
    step(seen, 1)
    step(seen, 1, attempt=1)
    step(seen, 1, counter=2)
    step(seen, 1, stage=2)
    step(seen, 1, stage=2)
    told(seen, piece(0, 5))
    told(seen, piece(1, 6, 7))
    told(seen, piece(0, 5))
    told(seen, piece(1, 6))
    told(seen, StreamStatus(request=REQUEST, waits_for="its turn"))
    for code in ("unknown", "malformed"):
        told(seen, StreamError(request=REQUEST, code=code, reason="it goes on"))  # type: ignore[arg-type]
    told(seen, end(3, 3))
    told(seen, end(3, 3))


def test_nothing_is_wrong_with_what_may_be() -> None:
    seen = BusInvariants()
    good(seen)
    assert seen.violations == []
    assert seen.rings["main"] == ("a", "b")


def test_open_requests_are_those_of_the_newest_heartbeat() -> None:
    seen = BusInvariants()
    seen.take(NODE_HEARTBEAT.format(node="a"), encode(make_heartbeat("a")))
    assert seen.open_requests == {"a": 0}
    offline = NodeStatus(node="a", incarnation=1, online=False)
    seen.take(NODE_STATUS.format(node="a"), encode(offline))
    assert seen.open_requests == {}


def test_a_token_that_ends_the_answer_is_not_sent() -> None:
    seen = BusInvariants()
    told(seen, piece(0, 5))
    told(seen, end(2, 1, "stop"))
    assert seen.violations == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda seen: step(seen, 1), "issued position 1"),
        (lambda seen: plan(seen, 1, 9), "came after 2-1"),
        (lambda seen: plan(seen, 1, 9, pipeline="main-3"), "of an orchestrator that 2-1 has replaced"),
        (lambda seen: plan(seen, 2, 1, slots=3), "in two versions"),
        (lambda seen: told(seen, piece(1, 6, 8)), "came in two versions"),
        (lambda seen: told(seen, StreamError(request=REQUEST, code="failed", reason="x")), "ended twice"),
        (lambda seen: told(seen, end(4, 3)), "ended after 4 tokens, 3 of them said; there were 3"),
        (lambda seen: seen.take(PLAN.format(pipeline="main"), b"{"), "against the contract"),
    ],
)
def test_each_thing_that_should_not_be(wrong: Any, named: str) -> None:
    seen = BusInvariants()
    good(seen)
    wrong(seen)
    assert len(seen.violations) == 1
    assert named in seen.violations[0]
