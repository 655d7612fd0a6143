"""Rings whose layers fold all positions into a state: lost frames, wrong guesses, prefixes, moves change no token."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.migration import kv_sender
from schemas.codec import Kind
from tests.support.guessing import always_guess, guess_of
from tests.support.simulated_move import SimulatedMove
from tests.support.simulated_ring import SimulatedRing, prompt, reference_tokens
from tests.support.strategies import examples
from tests.unit.edge_node.migration.test_live_move import (
    LAYERS,
    MOVES,
    close_ended,
    expect,
    fate_of,
    ring_of,
    splits,
)
from tests.unit.edge_node.test_simulated_faults import LoseOnce, Unreliable

FOLDED = st.sets(st.integers(0, LAYERS - 1), min_size=1)
CUTS = (0, 2, 4, 6)
MIXED = (0, 1, 3)
"""As in a real model: most layers fold positions, some have attention."""


def three(folded: Sequence[int] = MIXED, **options: object) -> SimulatedRing:
    return ring_of(("node0", "node1", "node2"), CUTS, folded=folded, **options)


def test_requests_are_computed_one_after_the_other() -> None:
    ring = three(position_s=0.001)
    answers = [ring.open(number, prompt(9 + number, number), 20) for number in range(4)]
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    assert set(ring.computed().values()) == {1}


def test_steps_of_one_answer_take_the_short_way() -> None:
    ring = three()
    answer = ring.open(1, prompt(20), 30)
    ring.run(lambda: answer.complete)
    expect([answer])
    assert all(node.short_steps == 29 for node in ring.nodes.values() if node.runs)


@given(
    FOLDED,
    st.integers(0, 10**9),
    st.floats(0, 0.05),
    st.floats(0, 0.4),
    st.floats(0, 0.2),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), min_size=1, max_size=4),
)
@examples(150)
def test_loss_duplicates_and_delays(
    folded: set[int], seed: int, lost: float, doubled: float, late: float, requests: list[tuple[int, int]]
) -> None:
    ring = three(sorted(folded), fate=Unreliable(seed, lost=lost, doubled=doubled, late=late, late_s=3.0))
    answers = [ring.open(number, prompt(length, number), count) for number, (length, count) in enumerate(requests)]
    ring.run(lambda: all(answer.complete for answer in answers), limit_s=3000)
    expect(answers)
    for answer in answers:
        ring.close(answer)
    assert ring.open_requests() == 0


@pytest.mark.parametrize("receiver", ["node1", "node2"])
def test_a_lost_chunk_takes_a_stage_that_is_ahead_back_to_a_state_that_it_has(receiver: str) -> None:
    """The others have computed what came behind the chunk: their states are past it."""
    ring = three()
    ring.fate = network = LoseOnce(lambda frame, topic: frame.position == 16 and topic.endswith(receiver))
    answer = ring.open(1, prompt(40), 5)
    ring.run(lambda: answer.complete)
    expect([answer])
    assert network.lost == 1
    assert ring.replays_taken


@given(FOLDED, st.integers(0, 10**6), st.floats(0.2, 1.0), st.floats(0, 0.05))
@examples(60)
def test_wrong_guesses_are_rolled_back(folded: set[int], seed: int, right: float, lost: float) -> None:
    luck = random.Random(seed)
    prompts = [prompt(5 + number, seed + number) for number in range(luck.randint(1, 3))]
    expected = {tuple(ids): reference_tokens(ids, 24, LAYERS) for ids in prompts}
    with pytest.MonkeyPatch.context() as patch:
        always_guess(patch, guess_of(expected, luck, right))
        ring = three(sorted(folded), fate=Unreliable(seed, lost=lost))
        answers = [ring.open(number, ids, 24, draft_tokens=4) for number, ids in enumerate(prompts)]
        ring.run(lambda: all(answer.complete for answer in answers), limit_s=3000)
    expect(answers)
    if not lost:
        assert ring.frames[Kind.REPLAY] == 0, "positions were run again where they were"


def test_a_prefix_ends_where_there_is_a_state() -> None:
    """At the end of the text, at that of the prompt, and nowhere between."""
    ring = three()
    first = ring.open(1, prompt(20), 20)
    ring.run(lambda: first.complete)
    ring.close(first)
    text = [*first.prompt_ids, *first.ids]
    for number, (shared, reused) in enumerate([(30, 20), (12, 0), (39, 39)], 2):
        ids = [*text[:shared], *prompt(10, number)]
        again = ring.open(number, ids, 10, prefix_request=1, prefix_tokens=shared)
        ring.run(lambda: again.complete)  # noqa: B023
        expect([again])
        ring.close(again)
        assert {timing.positions for timing in again.timings.values()} == {len(ids) + 9 - reused}


@pytest.mark.parametrize("move", MOVES)
def test_states_move_with_their_layers(move: str) -> None:
    """Of a request in the middle of its answer, and of one in its prompt."""
    before, cuts, after, new_cuts = MOVES[move]
    ring = ring_of(before, cuts, folded=MIXED)
    answers = [ring.open(1, prompt(9, 1), 40), ring.open(2, prompt(17, 2), 40)]
    ring.run(lambda: all(len(answer.ids) >= 8 for answer in answers))
    SimulatedMove(ring, after, new_cuts).go()
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
    assert set(ring.computed().values()) == {1}, "a position was computed again"
    assert ring.frames[Kind.REPLAY] == 0


@given(
    st.lists(splits(), min_size=2, max_size=4),
    FOLDED,
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 0.03), min_size=20, max_size=20),
    st.integers(60, 4000),
    st.booleans(),
)
@examples(150)
def test_any_move_at_any_time(
    rings: list[tuple[list[str], list[int]]],
    folded: set[int],
    requests: list[tuple[int, int]],
    pauses_s: list[float],
    message_bytes: int,
    wait: bool,
) -> None:
    pause_s = iter(pauses_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_sender, "_MESSAGE_BYTES", message_bytes)
        ring = ring_of(*rings[0], folded=sorted(folded))
        answers = []
        for number, (length, count) in enumerate(requests):
            answers.append(ring.open(number, prompt(length, number), count))
            ring.settle(next(pause_s))
        for nodes, cuts in rings[1:]:
            live = SimulatedMove(ring, nodes, cuts)
            live.go_slowly(lambda: ring.settle(next(pause_s)), wait=wait, missed=len(nodes) % 2)
        ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)


@given(st.lists(splits(), min_size=2, max_size=4), FOLDED, st.integers(0, 10**6), st.floats(0.2, 1.0))
@examples(60)
def test_moves_while_tokens_are_guessed(
    rings: list[tuple[list[str], list[int]]], folded: set[int], seed: int, right: float
) -> None:
    luck = random.Random(seed)
    prompts = [prompt(5 + number, seed + number) for number in range(luck.randint(1, 3))]
    expected = {tuple(ids): reference_tokens(ids, 24, LAYERS) for ids in prompts}
    with pytest.MonkeyPatch.context() as patch:
        always_guess(patch, guess_of(expected, luck, right))
        ring = ring_of(*rings[0], folded=sorted(folded))
        answers = [ring.open(number, ids, 24, draft_tokens=4) for number, ids in enumerate(prompts)]
        for nodes, cuts in rings[1:]:
            ring.settle(luck.random() * 0.03)
            SimulatedMove(ring, nodes, cuts).go()
        ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)


@given(st.lists(splits(), min_size=2, max_size=3), FOLDED, st.integers(0, 10**6))
@examples(80)
def test_states_and_frames_lost_doubled_and_late(
    rings: list[tuple[list[str], list[int]]], folded: set[int], seed: int
) -> None:
    luck = random.Random(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_sender, "_MESSAGE_BYTES", 60)  # pieces of states come one by one
        patch.setattr(kv_sender, "_PIECE_BYTES", 4)
        ring = ring_of(*rings[0], folded=sorted(folded), fate=fate_of(luck))
        answers = [ring.open(number, prompt(20, number), 12) for number in range(3)]
        for nodes, cuts in rings[1:]:
            live = SimulatedMove(ring, nodes, cuts)
            live.prepare()
            live.copy()
            ring.settle(luck.random() * 0.05)
            live.hold()
            held = live.await_hold()
            if luck.random() < 0.5:
                live.finish(held, limit_s=3000)  # it takes so long, now and then, that the hold runs out
            ring.settle(luck.random() * 0.05)
            live.switch(held)  # without waiting for what is sent
        ring.run(lambda: all(answer.complete for answer in answers), limit_s=3000)
    expect(answers)


@given(splits(), splits(), splits(), FOLDED, st.floats(0.0, 0.03))
@examples(60)
def test_a_move_given_up_after_states_were_sent_changes_nothing(
    first: tuple[list[str], list[int]],
    given_up: tuple[list[str], list[int]],
    then: tuple[list[str], list[int]],
    folded: set[int],
    pause_s: float,
) -> None:
    ring = ring_of(*first, folded=sorted(folded))
    answers = [ring.open(number, prompt(9 + 8 * number, number), 20) for number in range(3)]
    ring.settle(pause_s)
    live = SimulatedMove(ring, *given_up)
    live.prepare()
    live.copy()
    live.hold()
    live.finish(live.await_hold())
    live.roll_back()
    ring.settle(0.01)
    close_ended(ring)
    SimulatedMove(ring, *then).go()
    ring.run(lambda: all(answer.complete for answer in answers))
    expect(answers)
