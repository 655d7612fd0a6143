"""What takes the short way through a stage, and that whatever does not leaves nothing behind."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from edge_node.core import NodeCore
from edge_node.effects import LoadSegment, Subscribe
from edge_node.stage.decode_fast_path import DecodeFastPath
from edge_node.work import Computed, RowResult
from schemas.codec import Dtype, Flag, Frame, Kind, decode_frame, encode_frame
from schemas.messages import CloseRequest, Epoch, HoldRequests, OpenRequest, ReleaseSegment, Sampling
from schemas.topics import SEGMENT, TOKEN
from tests.support.simulated_ring import PIPELINE, prepare_segment

RING = ("alfa", "bravo", "charlie")
EPOCH = Epoch(generation=1, counter=1)
REQUEST, NUMBER = "00000000000000aa", 0xAA
PROMPT = (1, 2, 3, 4, 5)


class Node:
    """A stage of RING whose request has computed its prompt."""

    def __init__(self, name: str, **opening: Any) -> None:
        self.stage = RING.index(name)
        self.core = NodeCore(node=name, incarnation=7, memory_bytes=1 << 30)
        spec = prepare_segment(RING, self.stage, EPOCH)
        for effect in self.core.message(spec):
            if isinstance(effect, LoadSegment):
                key = (PIPELINE, EPOCH, self.stage)
                self.core.loaded(key, rss_bytes=1, peak_rss_bytes=1, downloaded_bytes=0, load_s=0.0)
            if isinstance(effect, Subscribe):
                self.core.subscribed(effect.patterns)
        fields: dict[str, Any] = {
            "pipeline": PIPELINE, "epoch": EPOCH, "stage": self.stage, "request": REQUEST, "prompt_tokens": 5,
            "max_tokens": 10, "prompt_ids": PROMPT,
        }  # fmt: skip
        self.core.message(OpenRequest(**(fields | opening)))
        if self.stage:
            self.core.frame(PIPELINE, self.stage, RING[self.stage - 1], self.activation(0, 5), 0.0)
        work, _ = self.core.next_work()
        assert work
        tokens = (7,) if self.stage == 2 else ()
        self.core.computed(work, Computed(0.1, (RowResult(payload=bytes(20), tokens=tokens),)), 0.0)

    @staticmethod
    def activation(position: int, count: int = 1, **changes: Any) -> Frame:
        fields: dict[str, Any] = {
            "kind": Kind.ACTIVATION, "request": NUMBER, "epoch": EPOCH, "attempt": 0, "position": position,
            "count": count, "width": 1, "dtype": Dtype.FP32, "flags": int(Flag.SAMPLE), "payload": bytes(4 * count),
        }  # fmt: skip
        return Frame(**(fields | changes))

    @staticmethod
    def token(token: int, position: int, **changes: Any) -> Frame:
        fields: dict[str, Any] = {
            "kind": Kind.TOKENS, "request": NUMBER, "epoch": EPOCH, "attempt": 0, "position": position, "count": 1,
            "dtype": Dtype.INT32, "payload": token.to_bytes(4, "little", signed=True),
        }  # fmt: skip
        return Frame(**(fields | changes))

    def fast_path(self, frame: Frame, sender: str | None = None) -> DecodeFastPath | None:
        names = {"pipeline": PIPELINE, "epoch": EPOCH, "receiver": RING[self.stage]}
        if self.stage:
            topic = SEGMENT.format(stage=self.stage, sender=sender or RING[self.stage - 1], **names)
        else:
            topic = TOKEN.format(sender=sender or RING[-1], **names)
        return self.core.fast_path(topic, encode_frame(frame), 1.0)

    def next_frame(self) -> Frame:
        return self.token(9, 5) if self.stage == 0 else self.activation(5)


def test_a_step_in_the_middle() -> None:
    node = Node("bravo")
    for position in (5, 6, 7):
        fast_path = node.fast_path(node.activation(position, payload=b"abcd"))
        assert fast_path
        assert (fast_path.position, fast_path.given) == (position, b"abcd")
        frame = decode_frame(fast_path.frame(b"efgh", 1.0))
        assert (frame.kind, frame.position, frame.flags, bytes(frame.payload)) == (
            Kind.ACTIVATION, position, Flag.SAMPLE, b"efgh",
        )  # fmt: skip
        fast_path.settle(0.1, 1.0)
    (metrics,) = node.core.metrics()
    assert metrics.positions == 8


def test_a_step_of_the_first_stage() -> None:
    node = Node("alfa")
    fast_path = node.fast_path(node.token(9, 5))
    assert fast_path
    assert (fast_path.position, fast_path.given) == (5, 9)
    frame = decode_frame(fast_path.frame(b"efgh", 1.0))
    assert (frame.kind, frame.position) == (Kind.ACTIVATION, 5)
    fast_path.settle(0.1, 1.0)
    assert node.core.next_deadline_s(), "the watchdog waits for the next token"


@pytest.mark.parametrize(("token", "flags"), [(3, Flag.NONE), (2, Flag.STOP)])
def test_a_step_of_the_last_stage(token: int, flags: Flag) -> None:
    node = Node("charlie", eos_ids=(2,), sampling=Sampling(repetition_penalty=1.5))
    fast_path = node.fast_path(node.activation(5))
    assert fast_path
    assert list(fast_path.draw().history) == [*PROMPT, 7]
    frame = decode_frame(fast_path.frame(token, 1.0))
    assert (frame.kind, frame.position, frame.flags) == (Kind.TOKENS, 6, flags)
    assert bytes(frame.payload) == token.to_bytes(4, "little")


def test_the_last_stage_learns_a_token_once_that_is_out() -> None:
    node = Node("charlie", draft_tokens=4)
    (stage,) = node.core._stages.values()
    guesser = stage.requests[NUMBER].guesser
    assert guesser
    for position, token in enumerate((3, 9, 8, 3, 9, 8), 5):
        fast_path = node.fast_path(node.activation(position))
        assert fast_path
        frame = decode_frame(fast_path.frame(token, 1.0))
        assert (frame.position, frame.count, frame.width) == (position + 1, 1, 1 if position == 10 else 0)
        assert (len(guesser.text()) > position + 1) is (position >= 9), "only what may be guessed is found before"
        fast_path.settle(0.1, 1.0)
        assert guesser.text()[: position + 2] == [*PROMPT, 7, 3, 9, 8, 3, 9, 8][: position + 2]


def test_a_token_that_was_said_is_said_again() -> None:
    node = Node("charlie")
    for result in (3, 4):  # computed again, in the profile "fast" another token might come
        fast_path = node.fast_path(node.activation(5))
        assert fast_path
        assert bytes(decode_frame(fast_path.frame(result, 1.0)).payload) == (3).to_bytes(4, "little")


def test_tokens_whose_probabilities_are_told_go_the_long_way() -> None:
    assert Node("charlie").fast_path(Node("charlie").activation(5))
    assert Node("charlie", logprobs=0).fast_path(Node("charlie").activation(5)) is None


def test_the_last_token_says_that_the_answer_is_full() -> None:
    node = Node("charlie", max_tokens=2)
    fast_path = node.fast_path(node.activation(5))
    assert fast_path
    assert decode_frame(fast_path.frame(3, 1.0)).flags == Flag.LENGTH


@pytest.mark.parametrize(
    "frame",
    [
        Node.activation(4),
        Node.activation(6),
        Node.activation(5, 2),
        Node.activation(5, attempt=1),
        Node.activation(5, flags=0),
        Node.activation(5, flags=int(Flag.SAMPLE | Flag.VERIFY), payload=bytes(8)),
        Node.activation(5, request=NUMBER + 1),
        Node.activation(5, epoch=Epoch(generation=1, counter=2)),
        Node.token(9, 5),
    ],
)
def test_what_a_stage_in_the_middle_sends_the_long_way(frame: Frame) -> None:
    node = Node("bravo")
    assert node.fast_path(frame) is None
    assert node.fast_path(node.activation(5))


@pytest.mark.parametrize(
    "frame",
    [
        Node.token(9, 4),
        Node.token(9, 6),
        Node.token(9, 5, attempt=1),
        Node.token(-1, 5),
        Node.token(1_000, 5),
        Node.token(9, 5, flags=int(Flag.STOP)),
        Node.token(9, 5, width=1, payload=bytes(12)),
        Node.activation(5),
    ],
)
def test_what_the_first_stage_sends_the_long_way(frame: Frame) -> None:
    node = Node("alfa")
    assert node.fast_path(frame) is None
    assert node.fast_path(node.token(9, 5))


@pytest.mark.parametrize("name", RING)
def test_of_another_sender_nothing_is_taken(name: str) -> None:
    node = Node(name)
    assert node.fast_path(node.next_frame(), sender="mallory") is None


@pytest.mark.parametrize("name", RING)
def test_a_step_that_fails_can_go_the_long_way(name: str) -> None:
    """Until it is settled, nothing has changed."""
    node = Node(name)
    assert node.fast_path(node.next_frame())
    sender = RING[node.stage - 1]
    assert node.core.frame(PIPELINE, node.stage, sender, node.next_frame(), 1.0) == []
    work, _ = node.core.next_work()
    assert work
    assert (work.rows[0].position, work.rows[0].count) == (5, 1)


@pytest.mark.parametrize("end", [CloseRequest(request=REQUEST), ReleaseSegment(pipeline=PIPELINE, epoch=EPOCH)])
def test_a_lane_keeps_no_segment_alive(end: Any) -> None:
    node = Node("bravo")
    fast_path = node.fast_path(node.activation(5))
    assert fast_path
    alive = weakref.ref(fast_path)
    del fast_path
    assert alive()
    node.core.message(end)
    assert alive() is None


@pytest.mark.parametrize("name", RING)
def test_no_lane_for_what_is_closed_or_released(name: str) -> None:
    node = Node(name)
    node.core.message(CloseRequest(request=REQUEST))
    assert node.fast_path(node.next_frame()) is None
    node = Node(name)
    node.core.message(ReleaseSegment(pipeline=PIPELINE, epoch=EPOCH))
    assert node.fast_path(node.next_frame()) is None


def test_what_is_held_waits() -> None:
    node = Node("alfa")
    node.core.message(HoldRequests(pipeline=PIPELINE, epoch=EPOCH, limit_s=9.0))
    assert node.fast_path(node.token(9, 5)) is None
    node.core.frame(PIPELINE, 0, "charlie", node.token(9, 5), 1.0)
    assert not node.core.has_work
    assert node.fast_path(node.token(9, 6)) is None, "a step waits already"


def test_a_new_attempt_has_a_lane_of_its_own() -> None:
    node = Node("bravo")
    first = node.fast_path(node.activation(5))
    assert first
    node.core.frame(PIPELINE, 1, "alfa", node.activation(3, 2, attempt=1), 1.0)
    work, _ = node.core.next_work()
    assert work
    node.core.computed(work, Computed(0.1, (RowResult(payload=bytes(8)),)), 1.0)
    assert node.fast_path(node.activation(5)) is None
    fast_path = node.fast_path(node.activation(5, attempt=1))
    assert fast_path
    assert fast_path is not first
    assert decode_frame(fast_path.frame(b"efgh", 1.0)).attempt == 1
