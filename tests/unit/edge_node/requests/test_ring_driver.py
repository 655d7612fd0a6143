"""The first stage's driver: chunks, repeats, replays, patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.requests.ring_driver import MAX_SILENT_REPEATS, RingDriver, Step, chunk_lengths
from schemas.codec import Dtype, Flag, Frame, Kind, decode_frame, encode_frame
from schemas.messages import Epoch
from tests.support.strategies import examples

EPOCH = Epoch(generation=1, counter=1)
PROMPT = list(range(100, 120))


def driver(prompt_tokens: int = 20, chunk_tokens: int = 8, known: int = 0) -> RingDriver:
    ids = [*range(100, 100 + prompt_tokens), *range(500, 500 + known)]
    result = RingDriver(prompt_tokens=prompt_tokens, chunk_tokens=chunk_tokens, stages=3, watchdog_min_s=1.0, ids=ids)
    result.start()
    return result


def encoded(step: Step, attempt: int) -> bytes:
    return encode_frame(
        Frame(
            kind=Kind.ACTIVATION, request=1, epoch=EPOCH, attempt=attempt, position=step.position,
            count=len(step.ids), width=1, dtype=Dtype.FP32, flags=Flag.SAMPLE if step.sample else 0,
            payload=bytes(4 * len(step.ids)),
        )
    )  # fmt: skip


def publish_all(ring: RingDriver, now_s: float, compute_s: float = 0.0) -> list[Step]:
    steps = list(ring.steps)
    ring.steps.clear()
    for step in steps:
        ring.published(step, encoded(step, ring.attempt), compute_s, now_s)
    return steps


def places(frames: list[bytes]) -> list[tuple[int, int]]:
    return [(frame.attempt, frame.position) for frame in map(decode_frame, frames)]


@given(st.integers(0, 5000), st.integers(2, 600))
@examples(500)
def test_chunk_lengths(prompt_tokens: int, chunk_tokens: int) -> None:
    lengths = chunk_lengths(prompt_tokens, chunk_tokens)
    assert sum(lengths) == prompt_tokens
    assert all(0 < length <= chunk_tokens for length in lengths)
    assert len(lengths) == -(-prompt_tokens // chunk_tokens)
    avoidable = prompt_tokens > 1 and chunk_tokens > 2
    assert not (avoidable and 1 in lengths)
    assert set(lengths[:-2]) <= {chunk_tokens}


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 20), st.data())
@examples(300)
def test_a_replay_has_the_boundaries_of_the_first_computation(
    prompt_tokens: int, chunk_tokens: int, known: int, data: st.DataObject
) -> None:
    """Other shapes would give other last bits. Generated tokens are steps of their own, also in a new epoch."""
    ring = driver(prompt_tokens, chunk_tokens, known)
    steps = publish_all(ring, 0.0)
    starts = {step.position for step in steps}
    assert [token for step in steps for token in step.ids] == ring.ids
    assert [step.sample for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(len(step.ids) == 1 for step in steps if step.position >= prompt_tokens)
    position = data.draw(st.integers(0, len(ring.ids) - 1))
    assert ring.token(0, len(ring.ids), (7,), (), last=False, now_s=1.0)
    frames, own_length = ring.replay(position, 2.0)
    assert frames == []
    assert own_length == max(start for start in starts if start <= position)
    again = list(ring.steps)
    assert {step.position for step in again[:-1]} <= starts
    assert [token for step in again for token in step.ids] == ring.ids[own_length:]
    assert [step.sample for step in again] == [False] * (len(again) - 1) + [True]


def test_a_token_leads_to_the_next_step_and_duplicates_do_not() -> None:
    ring = driver()
    publish_all(ring, 0.0)
    assert not ring.token(0, 19, (5,), (), last=False, now_s=0.1)
    assert not ring.token(0, 21, (5,), (), last=False, now_s=0.1)
    assert not ring.token(1, 20, (5,), (), last=False, now_s=0.1)
    assert ring.token(0, 20, (5,), (), last=False, now_s=0.1)
    assert not ring.token(0, 20, (5,), (), last=False, now_s=0.1)
    assert list(ring.steps) == [Step(20, (5,), sample=True)]
    publish_all(ring, 0.1)
    assert ring.token(0, 21, (6,), (), last=True, now_s=0.2)
    assert not ring.steps
    assert ring.deadline_s is None
    assert not ring.token(0, 22, (6,), (), last=False, now_s=0.3)


def test_a_repeat_stamps_the_last_frame_again_and_computes_nothing() -> None:
    ring = driver()
    publish_all(ring, 0.0)
    assert not ring.overdue(0.99)
    assert ring.overdue(1.01)
    assert places(ring.repeat(1.01)) == [(1, 16)]
    assert not ring.steps
    assert places(ring.repeat(5.0)) == [(2, 16)]


def test_a_token_of_an_earlier_attempt_counts_and_the_frames_stay() -> None:
    """The repeat is still under way: a stage may ask for what goes before it."""
    ring = driver()
    publish_all(ring, 0.0)
    ring.repeat(1.0)
    assert ring.token(0, 20, (5,), (), last=False, now_s=1.5)
    publish_all(ring, 1.5)
    frames, own_length = ring.replay(8, 1.6)
    assert own_length is None
    assert places(frames) == [(2, 8), (2, 16), (2, 20)]
    assert ring.token(2, 21, (6,), (), last=False, now_s=1.7)
    assert ring.replay(20, 1.8)[1] == 20, "now every stage has computed them, so they are gone"


def test_a_replay_of_frames_at_hand_sends_them_from_the_chunk_that_holds_the_position() -> None:
    ring = driver()
    publish_all(ring, 0.0)
    assert [places(frames) for frames, _ in (ring.replay(position, 0.1) for position in (0, 7, 8, 19))] == [
        [(1, 0), (1, 8), (1, 16)],
        [(2, 0), (2, 8), (2, 16)],
        [(3, 8), (3, 16)],
        [(4, 16)],
    ]
    assert not ring.steps


def test_a_replay_in_the_middle_of_the_prompt_leaves_the_rest_to_come() -> None:
    ring = driver()
    step = ring.steps.popleft()
    ring.published(step, encoded(step, 0), 0.0, 0.0)
    frames, own_length = ring.replay(0, 0.1)
    assert places(frames) == [(1, 0)]
    assert own_length is None
    assert [step.position for step in ring.steps] == [8, 16]
    assert ring.deadline_s is None, "nothing has been asked yet"


def test_it_gives_up_after_the_last_repeat_and_waits_longer_each_time() -> None:
    ring = driver()
    publish_all(ring, 0.0)
    waits_s = []
    now_s = 0.0
    while not ring.gave_up:
        assert ring.deadline_s is not None
        waits_s.append(ring.deadline_s - now_s)
        now_s = ring.deadline_s
        assert ring.overdue(now_s)
        ring.repeat(now_s)
    assert len(waits_s) == MAX_SILENT_REPEATS
    assert waits_s[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits_s == sorted(waits_s)
    assert max(waits_s) == 60.0


def test_patience_is_a_multiple_of_the_round_trip() -> None:
    ring = driver(prompt_tokens=5)
    publish_all(ring, 0.0)
    ring.token(0, 5, (1,), (), last=False, now_s=0.5)
    publish_all(ring, 1.0)
    assert ring.deadline_s == pytest.approx(1.0 + 8 * 0.5)
    ring.token(0, 6, (1,), (), last=False, now_s=1.1)  # a round trip of 0.1 s
    publish_all(ring, 2.0)
    assert ring.deadline_s == pytest.approx(2.0 + 8 * (0.5 + 0.125 * (0.1 - 0.5)))


def test_the_round_trip_of_a_repeat_is_counted_from_the_send_that_was_answered() -> None:
    for attempt, round_trip_s in ((0, 3.0), (1, 2.0)):
        ring = driver(prompt_tokens=5)
        publish_all(ring, 0.0)
        ring.repeat(1.0)
        assert ring.token(attempt, 5, (1,), (), last=False, now_s=3.0)
        publish_all(ring, 3.0)
        assert ring.deadline_s == pytest.approx(3.0 + 8 * round_trip_s)


def test_the_time_of_a_prompt_in_chunks_is_no_round_trip() -> None:
    ring = driver()
    publish_all(ring, 0.0)
    ring.token(0, 20, (1,), (), last=False, now_s=9.0)
    publish_all(ring, 9.0)
    assert ring.deadline_s == pytest.approx(10.0)


def test_a_long_prompt_gets_as_much_time_as_this_stage_lets_expect() -> None:
    ring = driver()
    publish_all(ring, 0.0, compute_s=2.0)
    assert ring.deadline_s == pytest.approx(1.0 + 4 * 3 * (3 * 2.0))


def test_progress_resets_the_patience() -> None:
    ring = driver(prompt_tokens=5)
    publish_all(ring, 0.0)
    for now_s in (1.0, 3.0, 7.0):
        ring.repeat(now_s)
    ring.token(3, 5, (1,), (), last=False, now_s=7.01)
    publish_all(ring, 10.0)
    assert ring.deadline_s == pytest.approx(11.0)
    assert not ring.gave_up


def test_a_token_that_came_from_an_older_attempt_meanwhile_is_not_awaited_again() -> None:
    """A replay computes everything again, and its last step asks for what is known by then."""
    ring = driver(prompt_tokens=8)
    publish_all(ring, 1.0)
    ring.frames.clear()
    ring.replay(0, 1.1)
    (again,) = ring.steps
    ring.steps.clear()
    assert ring.token(0, 8, (7,), (), last=False, now_s=1.2)
    ring.published(again, encoded(again, ring.attempt), 0.0, 1.3)
    assert not ring.is_owed
    publish_all(ring, 1.4)
    assert ring.is_owed


@pytest.mark.parametrize("position", [0, 7, 8, 21, 33])
def test_where_bits_are_the_same_in_any_run_tokens_are_repeated_in_chunks(position: int) -> None:
    ids = list(range(35))
    again = RingDriver(
        prompt_tokens=20, chunk_tokens=8, stages=3, watchdog_min_s=1.0, ids=ids, same_bits=True
    )  # fmt: skip
    again.start(position)
    steps = list(again.steps)
    assert steps[0].position <= position
    assert [token for step in steps for token in step.ids] == ids[steps[0].position :]
    assert all(2 <= len(step.ids) <= 8 for step in steps)
    assert [step.sample for step in steps] == [False] * (len(steps) - 1) + [True]


def guessing(windows: int = 3) -> RingDriver:
    """A driver whose prompt is answered by one token, with guesses for so many windows of three positions behind it."""
    ring = driver()
    ring.window_tokens = 2
    publish_all(ring, 0.0)
    assert ring.token(0, 20, (500,), tuple(range(501, 500 + 3 * windows)), last=False, now_s=0.1)
    return ring


def test_guesses_are_cut_into_windows_that_do_not_wait_for_each_other() -> None:
    ring = guessing()
    assert publish_all(ring, 0.1) == [
        Step(20, (500, 501, 502), sample=True, verify=True),
        Step(23, (503, 504, 505), sample=True, verify=True),
        Step(26, (506, 507, 508), sample=True, verify=True),
    ]
    assert ring.token(0, 21, (501, 502, 503), tuple(range(504, 512)), last=False, now_s=0.2)
    assert publish_all(ring, 0.2) == [Step(29, (509, 510, 511), sample=True, verify=True)], "the chain is longer by one"
    assert ring.attempt == 0
    assert [position for position, _ in ring.frames] == [23, 26, 29]
    assert ring.is_owed


def test_windows_are_of_equal_length() -> None:
    ring = guessing(1)
    ring.window_tokens = 8
    publish_all(ring, 0.1)
    assert ring.token(0, 21, (501, 502, 503), tuple(range(504, 514)), last=False, now_s=0.2)
    assert [len(step.ids) for step in ring.steps] == [6, 5]


def test_a_wrong_guess_begins_a_new_attempt_where_it_stood() -> None:
    ring = guessing()
    publish_all(ring, 0.1)
    assert ring.token(0, 21, (501, 600), (601,), last=False, now_s=0.2)
    assert ring.attempt == 1
    assert publish_all(ring, 0.2) == [Step(22, (600, 601), sample=True, verify=True)]
    assert [position for position, _ in ring.frames] == [22]
    assert not ring.token(0, 24, (504,), (), last=False, now_s=0.3), "a window behind it, too late"


def test_a_wrong_guess_with_nothing_behind_it_needs_no_new_attempt() -> None:
    ring = guessing(1)
    publish_all(ring, 0.1)
    assert ring.token(0, 21, (501, 600), (), last=False, now_s=0.2)
    assert ring.attempt == 0
    assert publish_all(ring, 0.2) == [Step(22, (600,), sample=True)]


def test_a_window_that_is_right_but_cut_short_is_given_up_behind_that() -> None:
    """As where it was not known which tokens may come."""
    ring = guessing()
    publish_all(ring, 0.1)
    assert ring.token(0, 21, (501,), (), last=False, now_s=0.2)
    assert ring.attempt == 1
    assert [step.position for step in ring.steps] == [21]


def test_tokens_that_got_lost_are_known_by_those_behind_them() -> None:
    ring = guessing()
    publish_all(ring, 0.1)
    assert not ring.token(0, 30, (510,), (), last=False, now_s=0.2), "nobody was asked for that"
    assert ring.token(0, 24, (504, 505, 506), (507, 508), last=False, now_s=0.2)
    assert ring.ids[20:] == list(range(500, 507))
    assert ring.attempt == 0
    assert not ring.token(0, 21, (501, 502, 503), (), last=False, now_s=0.3), "they are known"
    assert not ring.steps
    assert ring.token(0, 27, (507, 508, 700), (), last=False, now_s=0.3)
    assert list(ring.steps) == [Step(29, (700,), sample=True)], "behind the last window any token may come"
    assert ring.attempt == 0


def test_all_windows_on_their_way_are_repeated_and_none_is_computed_again() -> None:
    ring = guessing()
    publish_all(ring, 0.1)
    assert ring.token(0, 21, (501, 502, 503), (504, 505, 506, 507, 508), last=False, now_s=0.2)
    assert ring.overdue(5.0)
    assert places(ring.repeat(5.0)) == [(1, 23), (1, 26)]
    assert places(ring.replay(26, 5.1)[0]) == [(2, 26)], "a stage may lack the second one alone"
    assert not ring.steps


def test_the_end_of_an_answer_ends_what_is_on_its_way() -> None:
    ring = guessing()
    steps = publish_all(ring, 0.1)
    ring.steps.append(steps[-1])
    assert ring.token(0, 21, (501, 2), (), last=True, now_s=0.2)
    assert not ring.steps
    assert not ring.is_owed
