"""Rings of node cores over a simulated network that loses, doubles and delays: the tokens are the right ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.codec import Frame, Kind
from tests.support.simulated_ring import PIPELINE, SimulatedRing, prompt
from tests.support.strategies import examples
from tests.unit.edge_node.test_simulated_ring import assert_right


class Unreliable:
    """Loses, doubles and delays frames at random."""

    def __init__(self, seed: int, *, lost: float = 0.0, doubled: float = 0.0, late: float = 0.0, late_s: float = 2.0):
        self._random = random.Random(seed)
        self._lost, self._doubled, self._late, self._late_s = lost, doubled, late, late_s

    def __call__(self, frame: Frame, topic: str) -> Sequence[float]:
        if self._random.random() < self._lost:
            return ()
        copies = 2 if self._random.random() < self._doubled else 1
        return [self._random.random() * self._late_s * (self._random.random() < self._late) for _ in range(copies)]


@pytest.mark.parametrize("stages", [2, 4])
def test_every_frame_twice(stages: int) -> None:
    ring = SimulatedRing(stages, fate=lambda frame, topic: (0.0, 0.0))
    answer = ring.open(1, prompt(20), 30)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    for node in ring.nodes.values():
        assert sum(row.count for row in node.rows_run) == 49, "a duplicate was computed"


def test_frames_doubled_and_one_in_ten_past_the_watchdog() -> None:
    network = Unreliable(5, doubled=1.0, late=0.1, late_s=4.0)
    ring = SimulatedRing(3, fate=network)
    answer = ring.open(1, prompt(30), 30)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    if not ring.replays_taken:
        assert set(ring.positions_issued(answer).values()) == {1}


@given(
    st.integers(1, 5),
    st.integers(0, 10**9),
    st.floats(0, 0.05),
    st.floats(0, 0.4),
    st.floats(0, 0.2),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), min_size=1, max_size=4),
)
@example(2, 227, 0.0, 0.0, 0.171875, [(20, 2), (26, 2), (26, 2), (25, 2)])  # a replay is asked for after the end
@examples(150)
def test_loss_duplicates_and_delays_with_several_requests(
    stages: int, seed: int, lost: float, doubled: float, late: float, requests: list[tuple[int, int]]
) -> None:
    ring = SimulatedRing(stages, fate=Unreliable(seed, lost=lost, doubled=doubled, late=late, late_s=3.0))
    answers = [ring.open(number, prompt(length, number), count) for number, (length, count) in enumerate(requests)]
    ring.run(lambda: all(answer.complete for answer in answers), limit_s=3000)
    for answer in answers:
        assert_right(ring, answer)
        issued = ring.positions_issued(answer)
        assert set(issued) >= set(range(answer.prompt_tokens + answer.max_tokens - 1))
        if not ring.replays_taken:
            assert set(issued.values()) == {1}, "stage 0 computed a position twice without being asked"
        ring.close(answer)
    assert ring.open_requests() == 0


@given(st.integers(2, 4), st.integers(0, 10**9))
@examples(60)
def test_delays_alone_never_make_the_first_stage_compute_again(stages: int, seed: int) -> None:
    """Replays are served from the frames it kept, unless one itself comes so late that it is about the past."""
    network = Unreliable(seed, late=0.3, late_s=3.0)
    ring = SimulatedRing(stages, fate=lambda f, topic: (0.0,) if f.kind is Kind.REPLAY else network(f, topic))
    answer = ring.open(1, prompt(40), 8)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    assert set(ring.positions_issued(answer).values()) == {1}


class LoseOnce:
    """Loses the first frame that a test chooses."""

    def __init__(self, choose: Callable[[Frame, str], bool]) -> None:
        self._choose = choose
        self.lost = 0

    def __call__(self, frame: Frame, topic: str) -> Sequence[float]:
        if not self.lost and self._choose(frame, topic):
            self.lost += 1
            return ()
        return (0.0,)


@pytest.mark.parametrize("position", [0, 8, 16, 24])
@pytest.mark.parametrize("receiver", ["node1", "node2"])
def test_a_lost_prompt_chunk_is_replayed_from_the_frames_kept(position: int, receiver: str) -> None:
    ring = SimulatedRing(3)
    ring.fate = network = LoseOnce(lambda frame, topic: frame.position == position and topic.endswith(receiver))
    answer = ring.open(1, prompt(30), 5)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    assert network.lost == 1
    assert set(ring.positions_issued(answer).values()) == {1}
    assert ring.replays_taken == (position < 24)


@pytest.mark.parametrize("part", ["to/node1", "to/node2", "token/"])
def test_a_lost_decode_frame_or_token_costs_one_repeat(part: str) -> None:
    ring = SimulatedRing(3)
    ring.fate = network = LoseOnce(lambda frame, topic: frame.position == 33 and part in topic)
    answer = ring.open(1, prompt(30), 8)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    assert network.lost == 1
    assert set(ring.positions_issued(answer).values()) == {1}
    assert sum(row.position == 33 for row in ring.nodes["node1"].rows_run) <= 2
    assert 1.0 < ring.now_s < 2.5


def test_a_ring_slower_than_the_watchdog_learns_its_time() -> None:
    """Each token takes 2 s, the watchdog's shortest wait is 1 s, and the first stage itself does next to nothing."""
    ring = SimulatedRing(2, position_s=(0.0001, 2.0), chunk_tokens=4)
    answer = ring.open(1, prompt(8), 20)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    decode = [row for row in ring.nodes["node1"].rows_run if row.position >= 8]
    assert len(decode) <= 19 + 6, "steps were repeated again and again"
    assert ring.now_s < 2 * (8 + 19) * 2.0


def test_a_slow_prompt_is_not_computed_again_and_again() -> None:
    ring = SimulatedRing(2, position_s=(0.0001, 0.5), chunk_tokens=4)
    answer = ring.open(1, prompt(32), 2)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    assert answer.first_token_s is not None
    assert answer.first_token_s < 32 * 0.5 + 0.1
    assert sum(row.count for row in ring.nodes["node1"].rows_run) <= 32 + 1 + 6 * 4


def test_the_ring_gives_up_when_nothing_ever_comes_back() -> None:
    ring = SimulatedRing(3)
    ring.fate = lambda frame, topic: () if frame.kind is Kind.TOKENS else (0.0,)
    answer = ring.open(1, prompt(5), 5)
    ring.run(lambda: bool(answer.failures), limit_s=3000)
    assert [failure.code for failure in answer.failures] == ["no_progress"]
    frames = ring.frames[Kind.ACTIVATION]
    ring.settle(2000.0)
    assert ring.frames[Kind.ACTIVATION] == frames, "it goes on sending after it gave up"
    assert len(answer.failures) == 1
    ring.close(answer)
    assert ring.open_requests() == 0


def test_no_token_is_lost_when_the_orchestrator_misses_some() -> None:
    """Only the copies to the orchestrator get lost; the ring itself never notices."""
    ring = SimulatedRing(2)
    answer = ring.open(1, prompt(5), 30)
    ring.run(lambda: answer.complete)
    kept = dict(answer.tokens)
    for position in (7, 8, 20, 34):
        del answer.tokens[position]
    ring._ask_for_missed_tokens(answer, len(answer.tokens))
    ring.run(lambda: answer.complete)
    assert answer.tokens == kept


def test_a_replay_that_turns_a_waiting_step_into_a_chunk() -> None:
    """The first stage has decode steps waiting when it learns that a stage lost everything: no run may mix them."""
    ring = SimulatedRing(2, position_s=(0.01, 0.0001), slots=4)
    answers = [ring.open(number, prompt(12, number), 12) for number in range(4)]
    ring.run(lambda: all(len(answer.tokens) >= 3 for answer in answers))
    first = ring.nodes["node0"]
    stage = first.core._stages[PIPELINE, ring.epoch, 0]

    def lose_all() -> None:
        for number, state in stage.requests.items():
            assert state.driver is not None
            lost = Frame(kind=Kind.REPLAY, request=number, epoch=ring.epoch, attempt=state.driver.attempt, position=0)
            first.inbox.append(("", 0, "node1", lost))

    for _ in range(3):
        lose_all()
        ring.settle(0.015)
    ring.run(lambda: all(answer.complete for answer in answers))
    for answer in answers:
        assert_right(ring, answer)
    for node in ring.nodes.values():
        for work in node.runs:
            assert len(work.rows) == 1 or {row.count for row in work.rows} == {1}
