"""The node's decisions one by one: what each message, frame and result leads to."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edge_node.core import NodeCore
from edge_node.effects import (
    Effect,
    LoadSegment,
    Register,
    Reply,
    SendFrame,
    StandBy,
    Stop,
    Subscribe,
    UnloadSegment,
    Unsubscribe,
)
from edge_node.stage_spec import StageSpec
from edge_node.wire.frames import joined_frames
from edge_node.work import Computed, Row, RowResult, Work
from schemas.codec import Dtype, Flag, Frame, Kind, decode_frame, decode_frames
from schemas.logprobs import Logprobs, pack_logprobs
from schemas.messages import (
    CloseRequest,
    Epoch,
    KeepBlobs,
    KeepRequests,
    OpenRequest,
    Plan,
    PrepareSegment,
    RefuseNode,
    RegisterAgain,
    ReleaseSegment,
    RequestClosed,
    RequestFailed,
    ResendTokens,
    Sampling,
    SegmentFailed,
    SegmentReady,
    StageTiming,
)
from tests.support.simulated_ring import PIPELINE, VOCABULARY, prepare_segment

RING = ("alfa", "bravo", "charlie")
REQUEST = "00000000000000aa"
NUMBER = 0xAA


def epoch(counter: int) -> Epoch:
    return Epoch(generation=1, counter=counter)


def plan(counter: int, ring: tuple[str, ...] = RING) -> Plan:
    refs = prepare_segment(ring, 0, epoch(counter)).ring if ring else ()
    return Plan(
        pipeline=PIPELINE, epoch=epoch(counter), model="fake", context_tokens=64, slots=4, wire_dtype="fp32", ring=refs
    )


def opening(**changes: Any) -> OpenRequest:
    fields: dict[str, Any] = {
        "pipeline": PIPELINE, "epoch": epoch(1), "stage": 0, "request": REQUEST, "prompt_tokens": 5, "max_tokens": 10,
        "prompt_ids": (1, 2, 3, 4, 5),
    }  # fmt: skip
    return OpenRequest(**(fields | changes))


def replies(effects: list[Effect], kind: type) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Reply) and isinstance(effect.message, kind)]


def sent(effects: list[Effect]) -> list[tuple[str, Frame]]:
    return [(effect.topic, decode_frame(effect.data)) for effect in effects if isinstance(effect, SendFrame)]


class Node:
    """One node of RING with one segment, driven by hand."""

    def __init__(self, name: str, ring: tuple[str, ...] = RING, counter: int = 1, **spec: Any) -> None:
        self.core = NodeCore(node=name, incarnation=7, memory_bytes=1 << 30)
        self.name, self.stage = name, ring.index(name)
        self.spec = prepare_segment(ring, self.stage, epoch(counter), **spec)
        self.prepare(self.spec)

    def prepare(self, spec: PrepareSegment) -> list[Effect]:
        effects = self.core.message(spec)
        for effect in effects:
            if isinstance(effect, LoadSegment):
                self.loaded(spec)
            if isinstance(effect, Subscribe):
                self.core.subscribed(effect.patterns)
        return effects

    def loaded(self, spec: PrepareSegment) -> list[Effect]:
        key = (spec.pipeline, spec.epoch, spec.stage)
        return self.core.loaded(key, rss_bytes=10, peak_rss_bytes=20, downloaded_bytes=30, load_s=0.5)

    def open(self, **changes: Any) -> list[Effect]:
        return self.core.message(opening(**{"stage": self.stage, **changes}))

    def frame(self, sender: str, **changes: Any) -> list[Effect]:
        fields: dict[str, Any] = {
            "kind": Kind.ACTIVATION, "request": NUMBER, "epoch": epoch(1), "attempt": 0, "position": 0, "count": 5,
            "width": 1, "dtype": Dtype.FP32, "flags": Flag.SAMPLE,
        } | changes  # fmt: skip
        fields.setdefault("payload", bytes(4 * fields["count"]))
        return self.core.frame(PIPELINE, self.stage, sender, Frame(**fields), 0.0)

    def token(self, sender: str, token: int, position: int, attempt: int = 0, count: int = 1) -> list[Effect]:
        return self.frame(
            sender, kind=Kind.TOKENS, dtype=Dtype.INT32, width=0, flags=0, attempt=attempt, position=position,
            count=count, payload=token.to_bytes(4, "little", signed=True) * count,
        )  # fmt: skip

    def replay(self, sender: str, position: int, attempt: int = 0) -> list[Effect]:
        return self.frame(
            sender, kind=Kind.REPLAY, dtype=Dtype.NONE, width=0, count=0, flags=0, position=position, attempt=attempt
        )

    def work(self) -> Work:
        work, effects = self.core.next_work()
        assert work
        assert not effects
        return work

    def row(self) -> tuple[Work, Row]:
        work = self.work()
        (row,) = work.rows
        return work, row

    def compute(self, token: int | None = None, failure: str | None = None) -> list[Effect]:
        work, row = self.row()
        is_last = self.stage == len(self.spec.ring) - 1
        result = RowResult(
            payload=None if is_last else bytes(4 * row.count),
            tokens=(token,) if is_last and row.sample and token is not None else (),
            failure=failure,
            failure_code="not_finite",
        )
        return self.core.computed(work, Computed(0.25, (result,)), 1.0)

    @property
    def open_requests(self) -> int:
        return sum(stage.open_requests for stage in self.core.metrics())


# --- segments ---------------------------------------------------------------------------------------------------------


def test_prepare_subscribes_and_loads_and_is_ready_when_both_are_done() -> None:
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1000)
    spec = prepare_segment(RING, 1, epoch(1), planned_bytes=1000)
    effects = core.message(spec)
    patterns = ("linguabus/v1/segment/main/1-1/1/from/+/to/bravo",)
    assert effects == [Subscribe(patterns), LoadSegment(StageSpec.of(spec))]
    key = (PIPELINE, epoch(1), 1)
    loaded = core.loaded(key, rss_bytes=10, peak_rss_bytes=20, downloaded_bytes=30, load_s=0.5)
    assert loaded == []
    (ready,) = replies(core.subscribed(patterns), SegmentReady)
    assert (ready.incarnation, ready.stage, ready.downloaded_bytes) == (7, 1, 30)
    assert core.subscribed(patterns) == [], "a resubscription is no second readiness"


def test_ready_in_the_other_order() -> None:
    core = NodeCore(node="alfa", incarnation=7, memory_bytes=1000)
    effects = core.message(prepare_segment(RING, 0, epoch(1)))
    assert isinstance(effects[0], Subscribe)
    assert effects[0].patterns == (
        "linguabus/v1/segment/main/1-1/0/from/+/to/alfa",
        "linguabus/v1/token/main/1-1/from/charlie/to/alfa",
    )
    assert core.subscribed(effects[0].patterns[:1]) == [], "half of it"
    assert core.subscribed(["something/else", *effects[0].patterns]) == []
    key = (PIPELINE, epoch(1), 0)
    loaded = core.loaded(key, rss_bytes=10, peak_rss_bytes=20, downloaded_bytes=30, load_s=0.5)
    assert len(replies(loaded, SegmentReady)) == 1


def test_a_repeated_prepare_is_answered_again_and_does_nothing() -> None:
    node = Node("bravo")
    (ready,) = node.core.message(node.spec)
    assert isinstance(ready, Reply)
    assert isinstance(ready.message, SegmentReady)
    assert len(node.core.metrics()) == 1
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1 << 30)
    core.message(node.spec)
    assert core.message(node.spec) == [], "it is not ready"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"planned_bytes": 2**30 + 5}, "the plan needs 5 more"),
        ({"stage": 2}, "stage 2 of the ring is not bravo's"),
        ({"stage": 9}, "stage 9"),
        ({"width_out": 2048, "chunk_tokens": 512}, "4194304 bytes, allowed are 1799956"),
        ({"width_out": 64, "max_message_bytes": 500}, "allowed are 456"),
        ({"max_message_bytes": 1_900_000}, "up to 1900000 bytes, the broker passes on 1800000 for bravo"),
    ],
)
def test_a_segment_that_can_not_work_is_refused(changes: dict[str, Any], words: str) -> None:
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1 << 30)
    effects = core.message(dataclasses.replace(prepare_segment(RING, 1, epoch(1)), **changes))
    (failed,) = replies(effects, SegmentFailed)
    assert words in failed.reason
    assert len(effects) == 1


def test_a_failed_load_is_reported_and_forgotten() -> None:
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1000)
    spec = prepare_segment(RING, 1, epoch(1))
    core.message(spec)
    key = (PIPELINE, epoch(1), 1)
    effects = core.segment_failed(key, "no such blob", "no_files")
    assert [type(effect) for effect in effects] == [Unsubscribe, UnloadSegment, Reply]
    assert replies(effects, SegmentFailed)[0].reason == "no such blob"
    assert core.segment_failed(key, "again", "no_files") == []
    assert len(core.message(spec)) == 2, "it may be tried again"


def test_a_stage_that_computes_what_is_wrong_answers_nothing_more() -> None:
    node = last_stage()
    node.open()
    assert node.core.has_requests
    key = next(iter(node.core._stages))
    effects = node.core.segment_failed(key, "its answer has changed", "wrong_answers")
    assert [type(effect) for effect in effects] == [Unsubscribe, UnloadSegment, Reply]
    (failed,) = replies(effects, SegmentFailed)
    assert (failed.code, failed.reason) == ("wrong_answers", "its answer has changed")
    assert not node.core.has_requests
    assert not node.core.has_stages


def test_a_node_without_memory_gives_all_up_at_once() -> None:
    node = last_stage()
    node.open()
    effects = node.core.give_up("its system has 5 MB of memory left", "no_room")
    assert [type(effect) for effect in effects] == [Unsubscribe, UnloadSegment, Reply]
    (failed,) = replies(effects, SegmentFailed)
    assert (failed.code, failed.reason) == ("no_room", "its system has 5 MB of memory left")
    assert not node.core.has_stages
    assert node.core.give_up("again", "no_room") == []


def test_a_node_that_may_use_less_by_now_refuses_what_it_took_before() -> None:
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1000)
    wanted = dataclasses.replace(prepare_segment(RING, 1, epoch(1)), planned_bytes=900)
    core.memory_bytes = 800
    (failed,) = replies(core.message(wanted), SegmentFailed)
    assert failed.reason == "bravo may use 800 bytes, the plan needs 100 more"


def test_rows_of_ended_requests_are_forgotten_where_memory_is_short() -> None:
    node = last_stage()
    (stage,) = node.core._stages.values()
    slots = stage.slots
    free = set(slots._free)
    first, second = slots.take(None, 0), slots.take(None, 0)
    assert first
    assert second
    slots.park(1, first.slot, 5)
    assert set(node.core.forget_parked()[stage.spec.key]) == free - {second.slot}
    grant = slots.take(1, 5)
    assert grant
    assert grant.valid_length == 0


def test_a_release_while_loading_unloads_what_arrives_late() -> None:
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1000)
    core.message(prepare_segment(RING, 1, epoch(1)))
    effects = core.message(ReleaseSegment(pipeline=PIPELINE, epoch=epoch(1)))
    assert [type(effect) for effect in effects] == [Unsubscribe, UnloadSegment]
    key = (PIPELINE, epoch(1), 1)
    late = core.loaded(key, rss_bytes=1, peak_rss_bytes=1, downloaded_bytes=0, load_s=0.0)
    assert late == [UnloadSegment(key)]
    assert core.message(ReleaseSegment(pipeline=PIPELINE, epoch=epoch(1))) == []


def test_a_commit_releases_older_epochs_of_its_pipeline_only() -> None:
    node = Node("bravo", counter=2)
    for counter, pipeline in ((3, PIPELINE), (1, "other"), (5, PIPELINE)):
        node.prepare(prepare_segment(RING, 1, epoch(counter), pipeline=pipeline))
    assert node.core.message(plan(1)) == [], "an old plan, still retained somewhere"
    assert node.core.message(plan(2)) == []
    effects = node.core.message(plan(3))
    assert [effect.key for effect in effects if isinstance(effect, UnloadSegment)] == [(PIPELINE, epoch(2), 1)]
    assert node.core.message(plan(3)) == []
    assert sorted((stage.pipeline, stage.epoch.counter) for stage in node.core.metrics()) == [
        ("main", 3),
        ("main", 5),
        ("other", 1),
    ]


def test_a_plan_without_a_ring_takes_the_pipeline_down() -> None:
    node = Node("bravo", counter=2)
    effects = node.core.message(plan(2, ring=()))
    assert UnloadSegment((PIPELINE, epoch(2), 1)) in effects
    assert node.core.metrics() == ()


def test_a_commit_without_this_node_releases_it() -> None:
    node = Node("bravo", counter=2)
    assert UnloadSegment((PIPELINE, epoch(2), 1)) in node.core.message(plan(3, ring=("alfa", "charlie")))


def test_register_and_refuse() -> None:
    core = NodeCore(node="bravo", incarnation=7, memory_bytes=1000)
    assert core.message(RegisterAgain()) == [Register()]
    assert core.message(RefuseNode(incarnation=8, reason="another")) == []
    assert core.message(RefuseNode(incarnation=7, reason="too old")) == [Stop("too old")]


def test_standby_units_are_left_to_the_background() -> None:
    keep = KeepBlobs(pipeline=PIPELINE, blobs=(), blob_urls=("http://127.0.0.1:1/blobs",))
    assert Node("bravo").core.message(keep) == [StandBy(keep)]


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_prompt_is_computed_up_to_its_last_position() -> None:
    node = Node("bravo")
    assert not node.core.is_prefilling
    node.open()
    node.frame("alfa", count=3, flags=0)
    node.compute()
    assert node.core.is_prefilling
    node.frame("alfa", position=3, count=2)
    node.compute()
    assert not node.core.is_prefilling
    node.frame("alfa", position=5, count=1)
    assert not node.core.is_prefilling


def test_open_without_a_segment_is_an_error() -> None:
    core = NodeCore(node="alfa", incarnation=7, memory_bytes=1000)
    (failed,) = replies(core.message(opening()), RequestFailed)
    assert failed.code == "internal"
    core.message(prepare_segment(RING, 0, epoch(1)))
    assert replies(core.message(opening()), RequestFailed), "it is not loaded yet"


@pytest.mark.parametrize(
    ("node", "changes", "code"),
    [
        ("alfa", {"prompt_tokens": 64, "prompt_ids": (1,) * 64}, "too_long"),
        ("alfa", {"prompt_ids": (1,) * 64}, "too_long"),
        ("bravo", {"prompt_tokens": 64, "prompt_ids": None}, "too_long"),
        ("alfa", {"prompt_ids": None}, "internal"),
        ("alfa", {"prompt_ids": (1, 2, 3, 4)}, "internal"),
        ("alfa", {"prompt_ids": (1, 2, 3, 4, VOCABULARY)}, "internal"),
        ("charlie", {"prompt_ids": None, "sampling": Sampling(repetition_penalty=1.1)}, "internal"),
        ("charlie", {"prompt_ids": (0, 0, 0, 0, 10**6), "sampling": Sampling(repetition_penalty=1.1)}, "internal"),
    ],
)
def test_requests_that_can_not_be_served(node: str, changes: dict[str, Any], code: str) -> None:
    tested = Node(node)
    (failed,) = replies(tested.open(**changes), RequestFailed)
    assert failed.code == code
    assert tested.open_requests == 0
    assert not tested.core.has_work
    assert tested.open() == [], "the slot is free"


def test_the_longest_prompt_and_a_repeated_open() -> None:
    node = Node("alfa")
    long = opening(prompt_tokens=63, prompt_ids=(1,) * 63)
    assert node.core.message(long) == []
    assert node.core.message(long) == []
    assert node.open_requests == 1


def test_no_slot_left_is_busy_until_one_is_freed() -> None:
    node = Node("bravo", slots=1)
    assert node.open() == []
    other = "00000000000000bb"
    assert replies(node.open(request=other), RequestFailed)[0].code == "busy"
    assert len(replies(node.core.message(CloseRequest(request=REQUEST)), RequestClosed)) == 1
    assert node.open(request=other) == []


def test_close_is_answered_each_time_and_late_frames_are_counted() -> None:
    node = Node("bravo")
    node.open()
    node.frame("alfa")
    assert node.core.has_work
    node.core.message(CloseRequest(request=REQUEST))
    assert node.core.next_work() == (None, [])
    assert not node.core.has_work
    (again,) = node.core.message(CloseRequest(request=REQUEST))
    assert isinstance(again, Reply)
    assert again.message.timing == StageTiming(node="bravo", stage=0), "there was nothing any more"
    assert node.frame("alfa") == []
    assert node.core.total_frames_dropped == 1


def test_an_orchestrator_that_adopts_a_plan_ends_what_it_does_not_know() -> None:
    node = Node("bravo")
    node.open()
    keep = KeepRequests(pipeline=PIPELINE, epoch=epoch(1), requests=(REQUEST,))
    assert node.core.message(dataclasses.replace(keep, epoch=epoch(9), requests=())) == []
    assert node.core.message(keep) == []
    (closed,) = node.core.message(dataclasses.replace(keep, requests=()))
    assert isinstance(closed, Reply)
    assert isinstance(closed.message, RequestClosed)
    assert not node.core.has_requests


def test_timing_counts_what_was_done() -> None:
    node = Node("bravo")
    node.open()
    for position, count in ((0, 5), (5, 1), (6, 1)):
        node.frame("alfa", position=position, count=count)
        node.frame("alfa", position=position, count=count)
        effects = node.compute()
        topic, frame = sent(effects)[0]
        assert topic == "linguabus/v1/segment/main/1-1/2/from/bravo/to/charlie"
        assert (frame.position, frame.count, frame.flags) == (position, count, Flag.SAMPLE)
        assert node.core.next_work() == (None, [])
    (closed,) = replies(node.core.message(CloseRequest(request=REQUEST)), RequestClosed)
    timing = closed.timing
    assert (timing.node, timing.stage, timing.positions, timing.decode_steps) == ("bravo", 1, 7, 2)
    assert (timing.prefill_s, timing.decode_s) == (0.25, 0.5)
    assert (timing.frames_out, timing.bytes_out, timing.decode_bytes_out) == (3, 3 * 44 + 7 * 4, 2 * 48)
    assert timing.frames_dropped == 3


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "changes"),
    [
        ("charlie", {}),
        ("bravo", {}),
        ("stranger", {}),
        ("alfa", {"epoch": epoch(2)}),
        ("alfa", {"request": 5}),
        ("alfa", {"width": 2}),
        ("alfa", {"dtype": Dtype.FP16}),
        ("alfa", {"count": 9}),
        ("alfa", {"position": 60}),
        ("alfa", {"kind": Kind.TOKENS, "dtype": Dtype.INT32, "width": 0, "flags": 0}),
        ("alfa", {"kind": Kind.REPLAY, "dtype": Dtype.NONE, "width": 0, "count": 0, "flags": 0}),
        ("alfa", {"kind": Kind.KV_ROWS}),
    ],
)
def test_frames_that_do_not_belong_here_are_dropped_and_counted(sender: str, changes: dict[str, Any]) -> None:
    node = Node("bravo")
    node.open()
    assert node.frame(sender, **changes) == []
    assert not node.core.has_work
    assert node.core.total_frames_dropped == 1
    node.core.message(ReleaseSegment(pipeline=PIPELINE, epoch=epoch(1)))
    assert node.core.total_frames_dropped == 1, "the count outlives the segment"


def test_a_gap_asks_the_first_stage_for_what_is_missing() -> None:
    node = Node("charlie")
    node.open(prompt_ids=None)
    node.frame("bravo", position=0, flags=0)
    node.compute()
    node.frame("bravo", position=8, count=2, attempt=3)
    work, effects = node.core.next_work()
    assert work is None
    ((topic, frame),) = sent(effects)
    assert topic == "linguabus/v1/segment/main/1-1/0/from/charlie/to/alfa"
    assert (frame.kind, frame.position, frame.attempt) == (Kind.REPLAY, 5, 3)


def test_the_first_stage_takes_tokens_and_replays_only_from_whom_it_may() -> None:
    node = Node("alfa")
    node.open()
    (_, frame) = sent(node.compute())[0]
    assert (frame.position, frame.count, frame.flags) == (0, 5, Flag.SAMPLE)
    wrong = [
        node.token("bravo", 9, 5),
        node.token("charlie", 9, 6),
        node.token("charlie", 9, 5, attempt=1),
        node.token("charlie", VOCABULARY, 5),
        node.token("charlie", -1, 5),
        node.replay("stranger", 0),
        node.replay("charlie", 0, attempt=1),
        node.replay("charlie", 5),
        node.frame("alfa"),
    ]
    assert wrong == [[]] * len(wrong)
    assert node.core.total_frames_dropped == len(wrong)
    assert not node.core.has_work
    assert [frame.attempt for _, frame in sent(node.replay("bravo", 0))] == [1]
    node.token("charlie", 9, 5, attempt=1)
    assert node.row()[1].ids == (9,)


def test_the_first_stage_repeats_at_once_what_it_is_owed() -> None:
    """When it is asked to, as nodes had lost their connection; a stage that is owed nothing does nothing."""
    node = Node("alfa")
    node.open()
    ask = ResendTokens(request=REQUEST, position=5, first_stage=True)
    assert node.core.message(ask) == []
    assert node.core.tick(1.0) == []
    node.compute()
    assert node.core.tick(1.0) == []
    assert node.core.message(ask) == []
    assert [frame.attempt for _, frame in sent(node.core.tick(1.0))] == [1]
    assert node.core.tick(1.0) == [], "once"


def test_tokens_beyond_the_context_are_refused() -> None:
    """No step may be issued whose position the KV cache does not have."""
    node = Node("alfa", context_tokens=6)
    node.open()
    node.compute()
    node.token("charlie", 9, 5)
    node.compute()
    assert node.token("charlie", 9, 6) == []
    assert not node.core.has_work


@pytest.mark.parametrize("name", RING)
def test_the_first_step_that_fails_is_tried_again_and_the_second_is_reported(name: str) -> None:
    node = Node(name)
    node.open()
    if name != "alfa":
        node.frame(node.spec.ring[node.stage - 1].node)
    first = node.core.next_work()[0]
    assert first
    result = RowResult(failure="a hidden state is NaN", failure_code="not_finite")
    assert node.core.computed(first, Computed(0.1, (result,)), 1.0) == []
    again = node.work()
    assert (again.rows[0].position, again.rows[0].count) == (0, first.rows[0].count)
    (failed,) = replies(node.core.computed(again, Computed(0.1, (result,)), 1.0), RequestFailed)
    assert (failed.code, failed.request, failed.suspect) == ("not_finite", REQUEST, name)
    assert failed.reason == "a hidden state is NaN (2 steps failed)"


def test_what_arrives_not_finite_names_its_sender() -> None:
    node = Node("charlie")
    node.open()
    node.frame("bravo")
    result = RowResult(failure="a hidden state that arrived is NaN", failure_code="bad_input")
    (failed,) = replies(node.core.computed(node.work(), Computed(0.0, (result,)), 1.0), RequestFailed)
    assert (failed.node, failed.suspect, failed.code) == ("charlie", "bravo", "bad_input")
    assert failed.reason == "a hidden state that arrived is NaN from bravo"


def test_a_result_for_a_request_or_segment_that_is_gone_is_ignored() -> None:
    node = Node("bravo")
    node.open()
    node.frame("alfa")
    work = node.work()
    node.core.message(CloseRequest(request=REQUEST))
    assert node.core.computed(work, Computed(0.1, (RowResult(payload=bytes(20)),)), 1.0) == []
    node.core.message(ReleaseSegment(pipeline=PIPELINE, epoch=epoch(1)))
    assert node.core.computed(work, Computed(0.1, (RowResult(payload=bytes(20)),)), 1.0) == []


# --- the last stage ---------------------------------------------------------------------------------------------------


def last_stage(**changes: Any) -> Node:
    node = Node("charlie")
    node.open(**({"prompt_ids": None, "sampling": Sampling(seed=3)} | changes))
    return node


def test_the_last_stage_samples_where_it_is_asked_to() -> None:
    node = last_stage(prompt_tokens=13)
    node.frame("bravo", position=0, count=8, flags=0)
    assert node.compute(token=1) == []
    node.frame("bravo", position=8, count=5)
    work, row = node.row()
    assert row.draw is not None
    assert (row.draw.position, row.draw.sampling.seed, row.draw.history) == (13, 3, ())
    ((topic, frame),) = sent(node.core.computed(work, Computed(0.1, (RowResult(tokens=(77,)),)), 1.0))
    assert topic == "linguabus/v1/token/main/1-1/from/charlie/to/alfa"
    assert (frame.kind, frame.position, frame.count, bytes(frame.payload)) == (Kind.TOKENS, 13, 1, b"\x4d\0\0\0")


@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_a_penalty_sees_prompt_and_tokens_also_in_a_new_epoch(name: str) -> None:
    sampling = Sampling(**{name: 1.2})
    node = last_stage(prompt_ids=(1, 2, 3, 4, 5, 60, 70), sampling=sampling)  # two tokens of an earlier epoch
    node.frame("bravo", count=5, flags=0)
    node.compute()
    node.frame("bravo", position=5, count=1, flags=0)
    node.compute()
    histories = []
    for position, token in ((6, 80), (7, 90), (8, 91)):
        node.frame("bravo", position=position, count=1)
        work, row = node.row()
        assert row.draw is not None
        histories.append(list(row.draw.history))
        assert row.draw.prompt_tokens == 5, "what an earlier epoch has made is the answer's own"
        node.core.computed(work, Computed(0.1, (RowResult(tokens=(token,)),)), 1.0)
    assert histories == [[1, 2, 3, 4, 5, 60, 70], [1, 2, 3, 4, 5, 60, 70, 80], [1, 2, 3, 4, 5, 60, 70, 80, 90]]


def likely(token: int) -> bytes:
    return pack_logprobs(Logprobs(-0.5, (token, 9), (-0.5, -2.0)))


def frames_of(effects: list[Effect]) -> list[Frame]:
    return [frame for effect in effects if isinstance(effect, SendFrame) for frame in decode_frames(effect.data)]


def test_the_last_stage_tells_how_likely_tokens_were_where_that_is_wanted_also_again() -> None:
    node = last_stage(logprobs=2, max_tokens=3)
    for position, count, token in ((0, 5, 70), (5, 1, 71)):
        node.frame("bravo", position=position, count=count)
        work, row = node.row()
        assert row.draw is not None
        assert row.draw.logprobs == 2
        result = RowResult(tokens=(token,), logprobs=(likely(token),))
        tokens, logprobs = frames_of(node.core.computed(work, Computed(0.1, (result,)), 1.0))
        assert (tokens.kind, logprobs.kind, logprobs.position) == (Kind.TOKENS, Kind.LOGPROBS, tokens.position)
        assert (logprobs.count, logprobs.width, bytes(logprobs.payload)) == (1, 2, likely(token))
    tokens, logprobs = frames_of(node.core.message(ResendTokens(request=REQUEST, position=5)))
    assert (tokens.count, logprobs.count, logprobs.position) == (2, 2, 5)
    assert bytes(logprobs.payload) == likely(70) + likely(71)


def test_a_run_that_goes_beyond_the_end_tells_nothing_of_what_is_behind_it() -> None:
    node = last_stage(logprobs=2, max_tokens=2)
    node.frame("bravo", count=5)
    work, _ = node.row()
    result = RowResult(tokens=(70, 71, 72), logprobs=(likely(70), likely(71), likely(72)))
    tokens, logprobs = frames_of(node.core.computed(work, Computed(0.1, (result,)), 1.0))
    assert (tokens.count, logprobs.count) == (2, 2)


def test_the_first_stage_leaves_them_to_the_orchestrator() -> None:
    node = Node("alfa")
    node.open()
    node.compute()
    logprobs = Frame(Kind.LOGPROBS, NUMBER, epoch(1), 0, 5, 1, 2, Dtype.FP32, payload=likely(70))
    assert node.core.frame(PIPELINE, 0, "charlie", logprobs, 1.0) == []
    assert node.core.total_frames_dropped == 0


def test_a_message_of_many_rows_is_as_long_as_the_broker_lets_it() -> None:
    parts = [bytes([number]) * 40 for number in range(5)]
    assert joined_frames(parts, 100) == [parts[0] + parts[1], parts[2] + parts[3], parts[4]]
    assert joined_frames(parts, 1000) == [b"".join(parts)]
    assert joined_frames(parts[:1], 10) == parts[:1], "a row's part is never divided"


def test_the_answer_ends_at_an_eos_id_or_at_its_length() -> None:
    node = last_stage(eos_ids=(7, 8), max_tokens=3)
    flags = []
    for position, count, token in ((0, 5, 1), (5, 1, 8)):
        node.frame("bravo", position=position, count=count)
        flags.append(sent(node.compute(token=token))[0][1].flags)
    assert flags == [0, Flag.STOP]
    node = last_stage(max_tokens=2)
    flags = []
    for position, count in ((0, 5), (5, 1)):
        node.frame("bravo", position=position, count=count)
        flags.append(sent(node.compute(token=1))[0][1].flags)
    assert flags == [0, Flag.LENGTH]


def test_tokens_are_sent_again_in_one_frame() -> None:
    node = last_stage(max_tokens=3)
    for position, count, token in ((0, 5, 10), (5, 1, 11), (6, 1, 12)):
        node.frame("bravo", position=position, count=count)
        node.compute(token=token)
    ((_, frame),) = sent(node.core.message(ResendTokens(request=REQUEST, position=6)))
    assert (frame.position, frame.count, frame.flags, bytes(frame.payload)) == (
        6, 2, Flag.LENGTH, b"\x0b\0\0\0\x0c\0\0\0",
    )  # fmt: skip
    assert node.core.message(ResendTokens(request=REQUEST, position=8)) == []
    assert node.core.message(ResendTokens(request=REQUEST, position=0)) == []
    assert node.core.message(ResendTokens(request="00000000000000bb", position=6)) == []
    middle = Node("bravo")
    middle.open()
    assert middle.core.message(ResendTokens(request=REQUEST, position=6)) == []


def test_a_ring_of_one_stage_goes_on_by_itself() -> None:
    node = Node("alfa", ring=("alfa",))
    node.open(max_tokens=3, sampling=Sampling())
    positions = []
    for token in (10, 11, 12):
        ((topic, frame),) = sent(node.compute(token=token))
        assert topic.startswith("linguabus/v1/token/")
        positions.append((frame.position, frame.flags))
    assert positions == [(5, 0), (6, 0), (7, Flag.LENGTH)]
    assert not node.core.has_work
    assert node.core.next_deadline_s() is None


# --- turns and time ---------------------------------------------------------------------------------------------------


def test_requests_take_turns() -> None:
    node = Node("alfa", context_tokens=100)
    for number in range(3):
        node.open(request=f"{number:016x}", prompt_tokens=24, prompt_ids=(1,) * 24)
    order = []
    while node.core.has_work:
        work, _ = node.core.next_work()
        if work:
            (row,) = work.rows
            order.append(row.request)
            node.core.computed(work, Computed(0.1, (RowResult(payload=bytes(4 * row.count)),)), 1.0)
    assert order == [0, 1, 2] * 3


def test_the_watchdog_repeats_once_per_deadline_and_gives_up_once() -> None:
    node = Node("alfa")
    node.open()
    assert node.core.next_deadline_s() is None
    node.compute()
    attempts = []
    failed: list[RequestFailed] = []
    while (deadline_s := node.core.next_deadline_s()) is not None:
        assert node.core.tick(deadline_s - 0.001) == []
        effects = node.core.tick(deadline_s)
        attempts += [frame.attempt for _, frame in sent(effects)]
        failed += replies(effects, RequestFailed)
    assert attempts == list(range(1, 11))
    assert [message.code for message in failed] == ["no_progress"]


def test_a_full_queue_drops_frames_instead_of_growing() -> None:
    node = Node("bravo")
    node.open()
    for _ in range(600):
        node.frame("alfa")
    assert node.core.total_frames_dropped == 600 - 512
