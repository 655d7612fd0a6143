"""Guesses of a draft model: no token changes, they come while the ring computes, and they end where they do not pay."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.requests.draft_record import DraftRecord
from edge_node.work import Drafted, DraftWork
from schemas.codec import Kind
from schemas.messages import Sampling
from tests.support.simulated_ring import DRAFT, SimulatedRing, prompt, reference_tokens
from tests.support.strategies import examples

PROMPT = prompt(20)
LINK_S = 0.005
"""Each way takes so long that a draft model of half a millisecond pays."""


def right_with(chance: float, expected: Sequence[int], luck: random.Random) -> Callable[[Sequence[int]], int]:
    """A draft model that is right with this probability."""

    def guess(text: Sequence[int]) -> int:
        return expected[len(text) - len(PROMPT)] if luck.random() < chance else 0

    return guess


def drafted_ring(stages: int, chance: float, expected: Sequence[int], **options: object) -> SimulatedRing:
    ring = SimulatedRing(stages, **({"draft": DRAFT, "fate": lambda frame, topic: (LINK_S,)} | options))  # type: ignore[arg-type]
    for node in ring.nodes.values():
        node.guess = right_with(chance, expected, random.Random(3))
        node.guess_s = 0.0005
    return ring


@pytest.mark.parametrize("stages", [2, 3, 5])
@pytest.mark.parametrize("chance", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("windows", [1, 8])
def test_no_token_changes(stages: int, chance: float, windows: int) -> None:
    expected = reference_tokens(PROMPT, 42, stages)
    ring = drafted_ring(stages, chance, expected)
    answer = ring.open(1, PROMPT, 40, draft_tokens=4, draft_windows=windows)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected[:40]
    assert ring.frames[Kind.REPLAY] == 0, "a wrong guess costs its own work, and no other"
    assert ring.frames[Kind.GUESS] > 0 if chance > 0.0 else ring.frames[Kind.GUESS] < 12


def test_it_is_quicker_by_what_was_right() -> None:
    expected = reference_tokens(PROMPT, 42, 3)

    def seconds(chance: float, draft_tokens: int) -> float:
        ring = drafted_ring(3, chance, expected)
        answer = ring.open(1, PROMPT, 40, draft_tokens=draft_tokens, draft_windows=8)
        ring.run(lambda: bool(answer.ids))
        begin_s = ring.now_s
        ring.run(lambda: answer.complete)
        return ring.now_s - begin_s

    assert seconds(1.0, 6) < 0.5 * seconds(1.0, 0)
    assert seconds(0.8, 6) < 0.8 * seconds(0.8, 0)
    assert seconds(0.0, 6) < 1.1 * seconds(0.0, 0), "given up before it has cost much"


def test_it_goes_on_from_its_own_guesses_and_from_what_came() -> None:
    expected = reference_tokens(PROMPT, 42, 3)
    ring = drafted_ring(3, 0.8, expected)
    answer = ring.open(1, PROMPT, 40, draft_tokens=4, draft_windows=4)
    ring.run(lambda: answer.complete)
    whole = [*PROMPT, *expected]
    texts = ring.nodes["node2"].texts_drafted
    assert texts[0] == PROMPT, "the prompt is taken in while the ring computes it"
    for text in texts:
        assert text[: len(PROMPT)] == PROMPT
        wrong = next((at for at, token in enumerate(text) if token != whole[at]), len(text))
        assert 0 in text[wrong : wrong + 1] or wrong == len(text), "what is no guess of its own is the text"


def test_a_draft_model_that_is_no_good_is_left_alone() -> None:
    expected = reference_tokens(PROMPT, 42, 3)
    ring = drafted_ring(3, 0.0, expected)
    for number in range(1, 4):
        answer = ring.open(number, PROMPT, 40, draft_tokens=4, draft_windows=8)
        ring.run(lambda: answer.complete)  # noqa: B023
        ring.close(answer)
        if number == 1:
            at_first = len(ring.nodes["node2"].texts_drafted)
    later = len(ring.nodes["node2"].texts_drafted) - at_first
    assert 0 < at_first < 20
    assert 0 < later <= 4, "tried again, but seldom"


def test_a_slow_draft_model_is_left_alone() -> None:
    expected = reference_tokens(PROMPT, 42, 3)
    ring = drafted_ring(3, 1.0, expected)
    ring.nodes["node2"].guess_s = 0.1
    answer = ring.open(1, PROMPT, 40, draft_tokens=4, draft_windows=8)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected[:40]
    assert ring.frames[Kind.GUESS] == 0


def test_trials_of_one_that_does_not_pay_become_rarer() -> None:
    record = DraftRecord()
    assert record.pays
    tried = [at for at in range(2000) if record.judged(1, pays=False)]
    pauses = [later - before for before, later in itertools.pairwise(tried)]
    assert tried[0] == 64
    assert pauses == [128, 256, 512, 1024][: len(pauses)]
    assert record.judged(1, pays=True)
    assert record.pays


def test_a_failure_ends_its_use_and_no_answer() -> None:
    expected = reference_tokens(PROMPT, 42, 2)
    ring = drafted_ring(2, 1.0, expected)
    node, runs = ring.nodes["node1"], []

    def fails(work: DraftWork) -> Drafted:
        runs.append(work)
        return Drafted(failure="out of memory")

    node.run_draft = fails  # type: ignore[method-assign]
    answer = ring.open(1, PROMPT, 40, draft_tokens=4, draft_windows=8)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected[:40]
    assert len(runs) == 1


def test_it_guesses_nothing_beyond_its_own_context() -> None:
    expected = reference_tokens(PROMPT, 42, 3)
    ring = drafted_ring(3, 1.0, expected, draft=replace(DRAFT, context_tokens=30))
    answer = ring.open(1, PROMPT, 40, draft_tokens=4, draft_windows=8)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected[:40]
    assert max(len(text) for text in ring.nodes["node2"].texts_drafted) == 30


def test_with_penalties_it_is_asked_with_the_text_that_they_need() -> None:
    ring = drafted_ring(3, 1.0, reference_tokens(PROMPT, 42, 3))
    node = ring.nodes["node2"]
    run, seen = node.run_draft, []

    def looks(work: DraftWork) -> Drafted:
        seen.append(list(work.draw.history) == list(work.ids))
        return run(work)

    node.run_draft = looks  # type: ignore[method-assign]
    sampling = Sampling(temperature=0.0, repetition_penalty=1.3)
    answer = ring.open(1, PROMPT, 20, draft_tokens=4, draft_windows=8, sampling=sampling)
    ring.run(lambda: answer.complete)
    assert seen
    assert all(seen)


@given(seed=st.integers(0, 10**6), windows=st.integers(1, 8), chance=st.sampled_from([0.5, 0.8, 0.95, 1.0]))
@examples(60)
def test_over_a_bad_network(seed: int, windows: int, chance: float) -> None:
    luck = random.Random(seed)
    expected = reference_tokens(PROMPT, 42, 3)
    ring = drafted_ring(3, chance, expected)
    ring.fate = lambda frame, topic: luck.choices([(), (0.0,), (0.0, 0.0), (3.0,), (0.0, 3.0)], [1, 12, 4, 1, 1])[0]
    answer = ring.open(1, PROMPT, 40, draft_tokens=3, draft_windows=windows)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected[:40]
