"""KV rows on their way: what a target takes in and acknowledges, how a source fills messages and windows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edge_node.effects import Effect, KvBlock, Reply, SendFrame, SendKvRows, WriteKvRows
from edge_node.migration import kv_sender
from edge_node.migration.handover import Handover
from edge_node.migration.kv_receiver import KvReceiver, Supplier
from edge_node.migration.kv_sender import KvSender
from edge_node.requests.kv_slots import SlotTable
from edge_node.requests.position_rule import PositionRule, Verdict
from edge_node.requests.request import StageRequest
from edge_node.stage_spec import StageSpec
from edge_node.wire.frames import kv_rows_frame
from schemas.codec import Dtype, Frame, Kind, decode_frame
from schemas.errors import FrameShapeMismatch
from schemas.messages import (
    Basis,
    CopyKv,
    Epoch,
    FinishKv,
    HeldRequest,
    KvCopied,
    KvLayer,
    KvTarget,
    OpenRequest,
    StageRef,
)
from tests.support.simulated_ring import PIPELINE, prepare_segment

OLD, NEW = Epoch(generation=1, counter=1), Epoch(generation=1, counter=2)
LAYER = KvLayer(layer=3, kv_heads=2, key_dim=4, value_dim=6)
SPEC = StageSpec.of(prepare_segment(("alfa", "bravo"), 1, NEW, slots=2))


def rows(request: int = 1, *, part: int = 0, position: int = 0, count: int = 4, number: int = 1, **shape: int) -> Frame:
    heads, head_dim = shape.get("heads", 2), shape.get("head_dim", 6 if part else 4)
    block = KvBlock(request, 0, shape.get("layer", 3), part, position, count)
    data = bytes(4 * count * heads * head_dim)
    return decode_frame(kv_rows_frame(block, NEW, number, heads=heads, head_dim=head_dim, dtype=Dtype.FP32, rows=data))


def incoming(slots: SlotTable | None = None, known: dict[int, StageRequest] | None = None) -> KvReceiver:
    return KvReceiver(SPEC, OLD, {3: Supplier(2, "charlie", LAYER)}, slots or SlotTable(2), known)


def written(effects: list[Effect] | None) -> list[tuple[int, int, int]]:
    """(slot, position, count) of what is written."""
    assert effects is not None
    return [(e.slot, e.frame.position, e.frame.count) for e in effects if isinstance(e, WriteKvRows)]


def acknowledged(effects: list[Effect] | None) -> list[tuple[str, int, int]]:
    """(topic, stage of the target, message) of acknowledgements."""
    assert effects is not None
    sent = [(e.topic, decode_frame(e.data)) for e in effects if isinstance(e, SendFrame)]
    assert all(frame.kind is Kind.KV_ACK and frame.epoch == OLD for _, frame in sent)
    return [(topic, frame.position, frame.attempt) for topic, frame in sent]


def test_rows_are_written_counted_and_acknowledged_once_per_message() -> None:
    target = incoming()
    first = target.rows("charlie", rows(part=0))
    assert written(first) == [(0, 0, 4)]
    assert acknowledged(first) == [("linguabus/v1/segment/main/1-1/2/from/bravo/to/charlie", 1, 1)]
    assert target.length(1) == 0, "the values are missing"
    second = target.rows("charlie", rows(part=1))
    assert acknowledged(second) == [], "the same message"
    assert target.length(1) == 4
    for part in (0, 1):
        assert written(target.rows("charlie", rows(part=part, position=4, count=3, number=2))) == [(0, 4, 3)]
    assert target.length(1) == 7
    again = target.rows("charlie", rows(number=1))
    assert acknowledged(again) == [("linguabus/v1/segment/main/1-1/2/from/bravo/to/charlie", 1, 1)]
    assert target.length(1) == 7, "a duplicate takes nothing away"
    assert target.claim(1) == 0


@pytest.mark.parametrize(
    ("sender", "changes"),
    [
        ("alfa", {}),
        ("charlie", {"layer": 2}),
        ("charlie", {"heads": 4, "head_dim": 2}),
        ("charlie", {"head_dim": 6}),
        ("charlie", {"position": 61}),
    ],
)
def test_rows_that_do_not_belong_here_are_not_taken(sender: str, changes: dict[str, Any]) -> None:
    slots = SlotTable(2)
    assert incoming(slots).rows(sender, rows(**changes)) is None
    assert slots.lengths() == {}


def test_rounded_rows_are_for_layers_that_round_and_others_for_others() -> None:
    rounds = dataclasses.replace(LAYER, rounding="0123456789ab")
    block = KvBlock(1, 0, 3, 0, 0, 4)
    data = kv_rows_frame(block, NEW, 1, heads=2, head_dim=4, dtype=Dtype.INT8, rows=bytes(32))
    for layer, frame, is_taken in (
        (LAYER, rows(), True), (LAYER, decode_frame(data), False),
        (rounds, rows(), False), (rounds, decode_frame(data), True),
    ):  # fmt: skip
        target = KvReceiver(SPEC, OLD, {3: Supplier(2, "charlie", layer)}, SlotTable(2), None)
        assert (target.rows("charlie", frame) is not None) is is_taken


def test_a_frame_that_contradicts_itself_is_an_error() -> None:
    frame = rows()
    frame.width = 5
    with pytest.raises(FrameShapeMismatch):
        incoming().rows("charlie", frame)


def test_rows_after_a_gap_do_not_count() -> None:
    target = incoming()
    for part in (0, 1):
        target.rows("charlie", rows(part=part))
        late = target.rows("charlie", rows(part=part, position=6, number=3))
        assert written(late) == []
    assert target.length(1) == 4


def test_slots_of_requests_that_ended_unheard_of_are_used_again() -> None:
    slots = SlotTable(2)
    target = incoming(slots)
    for request in (1, 2, 1, 3):
        target.rows("charlie", rows(request))
    assert target.claim(2) is None, "nothing came for it for longest"
    target.forget(3)
    assert target.claim(1) == 0
    assert slots.take(None, 0) is not None
    assert slots.take(None, 0) is None, "what was claimed is in use"


def test_what_is_not_opened_is_given_back_when_the_epoch_is_in_force() -> None:
    slots = SlotTable(2)
    target = incoming(slots)
    target.rows("charlie", rows(1))
    target.rows("charlie", rows(2))
    target.close()
    assert [slots.take(None, 0) is not None for _ in range(3)] == [True, True, False]


def request_of(number: int, slot: int, length: int) -> StageRequest:
    message = OpenRequest(
        pipeline=PIPELINE, epoch=OLD, stage=0, request=f"{number:016x}", prompt_tokens=5, max_tokens=9
    )
    return StageRequest(message, slot, PositionRule(valid_length=length))


def test_an_heir_writes_to_the_slots_of_the_stage_before() -> None:
    known = {7: request_of(7, 1, 5)}
    target = incoming(known=known)
    assert written(target.rows("charlie", rows(7))) == [(1, 0, 4)]
    stranger = target.rows("charlie", rows(8))
    assert written(stranger) == []
    target.rows("charlie", rows(7, part=1))
    assert target.length(7) == 4
    del known[7]
    late = target.rows("charlie", rows(7, number=2))
    assert written(late) == []
    assert acknowledged(late), "whoever sends must be able to go on"
    assert target.length(7) == 0


def test_without_the_stage_before_nothing_is_inherited() -> None:
    """The node was started anew: what its neighbours think it has is not there, and is computed again."""
    basis = Basis(epoch=OLD, ring=(StageRef(node="alfa", start=0, stop=2), StageRef(node="bravo", start=2, stop=4)))
    spec = StageSpec.of(prepare_segment(("alfa", "bravo"), 1, NEW, cuts=(0, 1, 4)))
    handover = Handover(spec, basis, {}, patience_s=1.0)
    assert handover.old is None
    assert handover.incoming is not None
    for part in (0, 1):
        block = KvBlock(1, 0, 0, part, 0, 3)
        frame = kv_rows_frame(block, NEW, 1, heads=1, head_dim=1, dtype=Dtype.FP32, rows=bytes(12))
        assert handover.incoming.rows("alfa", decode_frame(frame)) is not None
    assert handover.incoming.length(1) == 3
    taken = handover.take(1, 3)
    assert (taken.valid_length, taken.slot, taken.before) == (0, 0, None)


# --- the source -------------------------------------------------------------------------------------------------------

SOURCE = StageSpec.of(prepare_segment(("alfa", "bravo"), 0, OLD, cuts=(0, 4, 5)))
"""Layers 0 to 2, a value each."""


def source(*targets: tuple[str, int, int]) -> KvSender:
    command = CopyKv(
        pipeline=PIPELINE,
        epoch=OLD,
        stage=0,
        to_epoch=NEW,
        targets=tuple(
            KvTarget(stage=stage, node=node, start=start, stop=stop)
            for stage, (node, start, stop) in enumerate(targets, 1)
        ),
    )
    return KvSender(command, SOURCE, value_bytes=4)


def messages_of(effects: list[Effect]) -> list[SendKvRows]:
    return [effect for effect in effects if isinstance(effect, SendKvRows)]


def told(effects: list[Effect]) -> list[KvCopied]:
    return [effect.message for effect in effects if isinstance(effect, Reply)]


def test_a_source_sends_follows_and_tells_when_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_sender, "_MESSAGE_BYTES", 64)
    requests = {1: request_of(1, 0, 6)}
    copy = source(("charlie", 2, 4))
    sent: list[SendKvRows] = []
    while copy.is_due(requests):
        effects = copy.next_effects(requests, 1.0)
        sent += messages_of(effects)
        for message in messages_of(effects):
            assert copy.acknowledged("charlie", 1, message.number, 1.0)
    assert [message.number for message in sent] == list(range(1, len(sent) + 1))
    assert {message.topic for message in sent} == {"linguabus/v1/segment/main/1-2/1/from/alfa/to/charlie"}
    covered = [(b.layer, b.part, b.position + index) for m in sent for b in m.blocks for index in range(b.count)]
    assert sorted(covered) == [(layer, part, position) for layer in (1, 2) for part in (0, 1) for position in range(6)]
    (caught_up,) = told(effects)
    assert (caught_up.final, caught_up.sent_bytes) == (False, 4 * 24)
    requests[1].rule.valid_length = 8
    more = copy.next_effects(requests, 2.0)
    assert {(block.position, block.count) for message in messages_of(more) for block in message.blocks} <= {(6, 2)}
    assert told(more) == []


def test_a_window_that_is_full_waits_and_a_slow_one_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_sender, "_MESSAGE_BYTES", 64)
    requests = {1: request_of(1, 0, 50)}
    copy = source(("charlie", 2, 4))
    assert len(messages_of(copy.next_effects(requests, 1.0))) == 4
    assert not copy.is_due(requests)
    assert copy.next_effects(requests, 1.0) == []
    assert not copy.acknowledged("delta", 1, 1, 1.0)
    assert not copy.acknowledged("charlie", 2, 1, 1.0)
    assert not copy.acknowledged("charlie", 1, 5, 1.0), "it was not sent"
    assert copy.acknowledged("charlie", 1, 1, 1.1)
    assert len(messages_of(copy.next_effects(requests, 1.1))) == 2, "one for the one taken in, one for being quick"
    assert copy.acknowledged("charlie", 1, 6, 3.0), "the later one stands for those before"
    assert len(messages_of(copy.next_effects(requests, 3.0))) == 4


def test_rows_of_guesses_are_sent_when_they_are_right() -> None:
    requests = {1: request_of(1, 0, 0)}
    state = requests[1]
    copy = source(("charlie", 2, 4))
    state.rule.computed(5)
    state.rule.computed(4)
    state.guessed = True  # positions 6 to 8
    blocks = [block for message in messages_of(copy.next_effects(requests, 1.0)) for block in message.blocks]
    assert {(block.position, block.count) for block in blocks} == {(0, 6)}
    copy.finish(
        FinishKv(
            pipeline=PIPELINE,
            epoch=OLD,
            stage=0,
            requests=(HeldRequest(request=f"{1:016x}", tokens=9, valid_tokens=8),),
        )
    )
    effects = copy.next_effects(requests, 1.0)
    blocks = [block for message in messages_of(effects) for block in message.blocks]
    assert {(block.position, block.count) for block in blocks} == {(6, 2)}
    assert [copied.final for copied in told(effects)] == [True]
    assert isinstance(effects[-1], Reply), "after the rows"


def test_the_end_waits_until_all_is_computed_and_not_for_requests_that_ended() -> None:
    requests = {1: request_of(1, 0, 3), 2: request_of(2, 1, 5)}
    copy = source(("charlie", 2, 4), ("delta", 1, 2))
    held = tuple(HeldRequest(request=f"{number:016x}", tokens=9, valid_tokens=5) for number in (1, 2, 3))
    copy.finish(FinishKv(pipeline=PIPELINE, epoch=OLD, stage=0, requests=held))
    assert told(copy.next_effects(requests, 1.0)) == []
    assert not copy.is_due(requests)
    requests[1].rule.valid_length = 5
    effects = copy.next_effects(requests, 1.0)
    assert len(messages_of(effects)) == 2
    assert [copied.final for copied in told(effects)] == [True]


def test_targets_that_want_nothing_of_the_stage_are_left_alone() -> None:
    copy = source(("charlie", 4, 5))
    effects = copy.next_effects({1: request_of(1, 0, 3)}, 1.0)
    assert messages_of(effects) == []
    assert [copied.final for copied in told(effects)] == [False]


def test_rows_behind_a_wrong_guess_are_sent_again() -> None:
    """Windows were on their way behind it, so that its rows counted as right."""
    requests = {1: request_of(1, 0, 0)}
    state = requests[1]
    copy = source(("charlie", 2, 4))
    for count in (5, 4, 4):
        state.rule.computed(count)
    state.guessed = True
    blocks = [block for message in messages_of(copy.next_effects(requests, 1.0)) for block in message.blocks]
    assert {(block.position, block.count) for block in blocks} == {(0, 10)}
    assert state.rule.judge(1, 7) is Verdict.COMPUTE
    for count in (4, 4):
        state.rule.computed(count)
    blocks = [block for message in messages_of(copy.next_effects(requests, 1.0)) for block in message.blocks]
    assert {(block.position, block.count) for block in blocks} == {(7, 5)}
