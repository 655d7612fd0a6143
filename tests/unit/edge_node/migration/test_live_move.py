"""Live moves on simulated rings: layers change nodes in the middle of answers, and nobody can tell from the tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.core import NodeCore
from edge_node.effects import LoadSegment
from edge_node.migration import kv_sender
from schemas.codec import Frame, Kind
from schemas.messages import Basis, Epoch, ResendTokens
from tests.support.guessing import always_guess, guess_of
from tests.support.simulated_move import SimulatedMove
from tests.support.simulated_ring import (
    PIPELINE,
    SimulatedAnswer,
    SimulatedRing,
    prepare_segment,
    prompt,
    reference_tokens,
)
from tests.support.strategies import examples

LAYERS = 4
UNITS = LAYERS + 2
A, B, C, D = (f"node{index}" for index in range(4))
MOVES = {
    "a boundary shifts": ((A, B), (0, 3, 6), (A, B), (0, 2, 6)),
    "a node is added": ((A, B), (0, 3, 6), (A, C, B), (0, 2, 4, 6)),
    "a node is removed": ((A, B, C), (0, 2, 4, 6), (A, C), (0, 4, 6)),
    "the first stage moves": ((A, B), (0, 3, 6), (C, B), (0, 3, 6)),
    "the first stage moves to a node that is there": ((A, B, C), (0, 2, 4, 6), (B, C), (0, 4, 6)),
    "the last stage moves": ((A, B), (0, 3, 6), (A, C), (0, 3, 6)),
    "both ends go to one node": ((A, B), (0, 3, 6), (A, B, A), (0, 1, 5, 6)),
    "both ends part": ((A, B, A), (0, 2, 4, 6), (A, B), (0, 3, 6)),
    "all change places": ((A, B, C), (0, 2, 4, 6), (C, A, B), (0, 2, 4, 6)),
    "from one node to many": ((A,), (0, 6), (A, B, C, D), (0, 1, 3, 5, 6)),
    "from many nodes to one": ((A, B, C, D), (0, 1, 3, 5, 6), (B,), (0, 6)),
    "nothing changes": ((A, B), (0, 3, 6), (A, B), (0, 3, 6)),
}


def ring_of(nodes: Sequence[str], cuts: Sequence[int], **options: object) -> SimulatedRing:
    ring = SimulatedRing(4, **options)  # type: ignore[arg-type]
    ring.deploy(nodes, cuts=cuts)
    return ring


def expect(answers: Sequence[SimulatedAnswer]) -> None:
    for answer in answers:
        assert answer.ids == reference_tokens(answer.prompt_ids, answer.max_tokens, LAYERS)
        assert answer.failures == []


def close_ended(ring: SimulatedRing) -> None:
    """As the orchestrator does."""
    for answer in ring.answers.values():
        if answer.complete and not answer.closed:
            ring.close(answer)


def expect_no_position_twice(ring: SimulatedRing) -> None:
    assert set(ring.computed().values()) == {1}
    assert ring.frames[Kind.REPLAY] == 0


@pytest.mark.parametrize("move", MOVES)
def test_requests_in_every_state_go_on(move: str) -> None:
    """One in the middle of its answer, one in its prompt, one that begins during the copy, one that ends in it."""
    before, cuts, after, new_cuts = MOVES[move]
    ring = ring_of(before, cuts)
    ending, long = ring.open(1, prompt(9, 1), 8), ring.open(2, prompt(17, 2), 46)
    ring.run(lambda: len(ending.tokens) == 3)
    live = SimulatedMove(ring, after, new_cuts)
    live.prepare()
    live.copy()
    late = ring.open(3, prompt(9, 3), 12)
    ring.run(lambda: ending.complete and live.has_caught_up)
    ring.close(ending)
    prefill = ring.open(4, prompt(50, 4), 5)
    ring.settle(0.011)
    live.hold()
    held = live.await_hold()
    assert len(held) == 3
    live.finish(held)
    live.switch(held)
    ring.run(lambda: long.complete and late.complete and prefill.complete)
    expect([ending, long, late, prefill])
    expect_no_position_twice(ring)
    for answer in (long, late, prefill):
        ring.close(answer)
        assert answer.timings[0].positions <= answer.prompt_tokens + answer.max_tokens - 1
    assert ring.open_requests() == 0
    again = [ring.open(number, prompt(7, number), 5) for number in range(10, 14)]
    ring.run(lambda: all(answer.complete for answer in again))
    expect(again)


@pytest.mark.parametrize("max_message_bytes", [320, 700])
def test_no_message_is_longer_than_the_broker_passes_on(max_message_bytes: int) -> None:
    """Chunks of prompts, batches, tokens with guesses, tokens sent again, rows that move."""
    ring = SimulatedRing(4, slots=8, chunk_tokens=32, max_message_bytes=max_message_bytes)
    ring.deploy((A, B, C), cuts=(0, 2, 4, 6))
    answers = [ring.open(number, prompt(20, number), 40, draft_tokens=8) for number in range(8)]
    ring.run(lambda: all(len(answer.tokens) > 5 for answer in answers))
    ring.command(C, ResendTokens(request=answers[0].request, position=20))
    SimulatedMove(ring, (A, C), (0, 4, 6)).go()
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    assert max_message_bytes / 2 < ring.longest_message_bytes <= max_message_bytes


def test_a_stage_that_stays_is_not_loaded_again_whatever_its_batches() -> None:
    core = NodeCore(node=A, incarnation=1, memory_bytes=1 << 30, watchdog_min_s=1.0)
    old = prepare_segment((A, B), 0, Epoch(generation=1, counter=1), batches=(1, 2, 2))
    core.message(old)
    core.loaded((PIPELINE, old.epoch, 0), rss_bytes=1, peak_rss_bytes=1, downloaded_bytes=0, load_s=0.0)
    basis = Basis(epoch=old.epoch, ring=old.ring)
    new = prepare_segment((A, B), 0, Epoch(generation=1, counter=2), batches=(1, 1, 1), basis=basis)
    (load,) = [effect for effect in core.message(new) if isinstance(effect, LoadSegment)]
    assert load.same_segment


@pytest.mark.parametrize("moment_s", [0.02, 0.05])
def test_a_batch_that_waited_for_the_others_goes_on_first(moment_s: float) -> None:
    """The ring comes to a stop batch by batch, and begins again so: nobody waits for all others twice."""
    ring = SimulatedRing(4, slots=6, position_s=0.01)
    ring.deploy((A, B, C), cuts=(0, 2, 4, 6))
    answers = [ring.open(number, prompt(9, number), 50) for number in range(6)]
    ring.run(lambda: all(len(answer.tokens) > 10 for answer in answers))
    ring.settle(moment_s)
    SimulatedMove(ring, (A, B, C), (0, 3, 4, 6)).go()
    began_s = ring.now_s
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    usual_s = max(answer.longest_gap_s(began_s + 0.5, ring.now_s) for answer in answers)
    assert max(answer.longest_gap_s(0.0, ring.now_s) for answer in answers) < 2.0 * usual_s


def test_figures_of_an_answer_go_along() -> None:
    ring = ring_of((A, B), (0, 3, 6))
    answer = ring.open(1, prompt(10), 20)
    ring.run(lambda: len(answer.tokens) == 8)
    SimulatedMove(ring, (A, C, B), (0, 2, 4, 6)).go()
    ring.run(lambda: answer.complete)
    ring.close(answer)
    positions = [answer.timings[stage].positions for stage in range(3)]
    assert positions[0] == positions[2] == 29, "stages that were there before count the whole answer"
    assert 0 < positions[1] < 29


def test_moved_without_rows_it_is_computed_again() -> None:
    ring = ring_of((A, B), (0, 3, 6))
    answer = ring.open(1, prompt(10), 20)
    ring.run(lambda: len(answer.tokens) == 8)
    live = SimulatedMove(ring, (B, A), (0, 3, 6))
    live.prepare()
    live.hold()
    live.switch(live.await_hold(), moved=False)
    ring.run(lambda: answer.complete)
    expect([answer])
    ring.close(answer)
    assert ring.open_requests() == 0


def test_an_orchestrator_that_has_missed_tokens() -> None:
    """They are made again."""
    ring = ring_of((A, B), (0, 3, 6))
    answer = ring.open(1, prompt(10), 20)
    ring.run(lambda: len(answer.tokens) == 8)
    live = SimulatedMove(ring, (B, A), (0, 3, 6))
    live.prepare()
    live.copy()
    live.hold()
    held = live.await_hold()
    live.finish(held)
    live.switch(held, missed=3)
    ring.run(lambda: answer.complete)
    expect([answer])


def test_many_moves_in_one_answer() -> None:
    ring = ring_of((A, B), (0, 3, 6))
    answers = [ring.open(number, prompt(9, number), 40) for number in range(3)]
    generator = random.Random(3)
    for count in range(3, 36, 4):
        ring.run(lambda: len(answers[0].tokens) >= count)  # noqa: B023
        nodes = generator.sample([A, B, C, D], generator.randint(1, 4))
        cuts = [0, *sorted(generator.sample(range(1, UNITS), len(nodes) - 1)), UNITS]
        SimulatedMove(ring, nodes, cuts).go()
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    expect_no_position_twice(ring)
    ring.settle()
    for node in ring.nodes.values():
        assert {epoch for _, epoch, _ in node.caches} <= {ring.epoch}, "an old epoch was never released"


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[str], list[int]]:
    """Nodes in the ring's order, a node up to twice, and unit boundaries."""
    nodes = draw(st.lists(st.sampled_from([A, B, C, D]), min_size=1, max_size=4))
    inner = draw(st.sets(st.integers(1, UNITS - 1), min_size=len(nodes) - 1, max_size=len(nodes) - 1))
    return nodes, [0, *sorted(inner), UNITS]


@given(
    st.lists(splits(), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 0.03), min_size=20, max_size=20),
    st.integers(60, 4000),
    st.booleans(),
)
@examples(150)
def test_any_move_at_any_time(
    rings: list[tuple[list[str], list[int]]],
    requests: list[tuple[int, int]],
    pauses_s: list[float],
    message_bytes: int,
    wait: bool,
) -> None:
    pause_s = iter(pauses_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_sender, "_MESSAGE_BYTES", message_bytes)
        patch.setattr(kv_sender, "_BLOCK_POSITIONS", 1 + message_bytes % 7)
        ring = ring_of(*rings[0])
        answers = []
        for number, (length, count) in enumerate(requests):
            answers.append(ring.open(number, prompt(length, number), count))
            ring.settle(next(pause_s))
        for nodes, cuts in rings[1:]:
            SimulatedMove(ring, nodes, cuts).go_slowly(lambda: ring.settle(next(pause_s)), wait=wait)
        ring.run(lambda: all(answer.complete for answer in answers))
        expect(answers)
        expect_no_position_twice(ring)
        close_ended(ring)
        assert ring.open_requests() == 0


@given(st.lists(splits(), min_size=2, max_size=4), st.integers(0, 10**6), st.floats(0.2, 1.0))
@examples(60)
def test_moves_while_tokens_are_guessed(rings: list[tuple[list[str], list[int]]], seed: int, right: float) -> None:
    luck = random.Random(seed)
    prompts = [prompt(5 + number, seed + number) for number in range(luck.randint(1, 3))]
    expected = {tuple(ids): reference_tokens(ids, 24, LAYERS) for ids in prompts}
    with pytest.MonkeyPatch.context() as patch:
        always_guess(patch, guess_of(expected, luck, right))
        patch.setattr(kv_sender, "_MESSAGE_BYTES", 300)
        ring = ring_of(*rings[0])
        answers = [ring.open(number, ids, 24, draft_tokens=4, draft_windows=8) for number, ids in enumerate(prompts)]
        for nodes, cuts in rings[1:]:
            ring.settle(luck.random() * 0.03)
            SimulatedMove(ring, nodes, cuts).go()
        ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    assert ring.frames[Kind.REPLAY] == 0


def fate_of(luck: random.Random) -> Callable[[Frame, str], Sequence[float]]:
    """Most frames arrive once; some twice, late, late once more, or never."""

    def fate(frame: Frame, topic: str) -> Sequence[float]:
        copies: list[Sequence[float]] = [(), (0.0,), (0.0, 0.0), (1.5,), (0.0, 1.5)]
        return luck.choices(copies, [1, 12, 4, 1, 1])[0]

    return fate


@given(st.lists(splits(), min_size=2, max_size=3), st.integers(0, 10**6))
@examples(100)
def test_rows_and_frames_lost_doubled_and_late(rings: list[tuple[list[str], list[int]]], seed: int) -> None:
    luck = random.Random(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_sender, "_MESSAGE_BYTES", 300)
        ring = ring_of(*rings[0], fate=fate_of(luck))
        answers = [ring.open(number, prompt(20, number), 12) for number in range(3)]
        for nodes, cuts in rings[1:]:
            live = SimulatedMove(ring, nodes, cuts)
            live.prepare()
            live.copy()
            ring.settle(luck.random() * 0.05)
            live.hold()
            held = live.await_hold()
            ring.settle(luck.random() * 0.05)
            live.switch(held)  # without waiting for the last rows
        ring.run(lambda: all(answer.complete for answer in answers), limit_s=3000)
    expect(answers)
    close_ended(ring)
    assert ring.open_requests() == 0


@given(splits(), splits(), splits(), st.integers(0, 4), st.floats(0.0, 0.03))
@examples(60)
def test_a_move_given_up_changes_nothing(
    first: tuple[list[str], list[int]],
    given_up: tuple[list[str], list[int]],
    then: tuple[list[str], list[int]],
    phase: int,
    pause_s: float,
) -> None:
    ring = ring_of(*first)
    answers = [ring.open(number, prompt(9 + 8 * number, number), 20) for number in range(3)]
    ring.settle(pause_s)
    live = SimulatedMove(ring, *given_up)
    live.prepare()
    if phase > 0:
        live.copy()
        ring.settle(pause_s)
    if phase > 1:
        live.hold()
        ring.settle(pause_s)
    if phase > 2:
        held = live.await_hold()
    if phase > 3:
        live.finish(held)
    live.roll_back()
    ring.settle(0.01)
    close_ended(ring)
    SimulatedMove(ring, *then).go()
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    assert set(ring.computed().values()) == {1}
    close_ended(ring)
    assert ring.open_requests() == 0


def test_a_hold_ends_by_itself() -> None:
    ring = ring_of((A, B), (0, 3, 6))
    answer = ring.open(1, prompt(10), 30)
    ring.run(lambda: len(answer.tokens) == 5)
    live = SimulatedMove(ring, (A, B), (0, 2, 6))
    live.hold(limit_s=5.0)
    live.hold(limit_s=5.0)
    live.await_hold()
    count = len(answer.tokens)
    late = ring.open(2, prompt(5), 5)
    ring.settle(4.0)
    assert len(answer.tokens) == count
    assert not late.tokens
    ring.run(lambda: answer.complete and late.complete)
    expect([answer, late])
    expect_no_position_twice(ring)
