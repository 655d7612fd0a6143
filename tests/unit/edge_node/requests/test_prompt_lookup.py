"""Guesses: what is guessed, when it stops, and that neither guesses nor reused prefixes change a token."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_node.requests.kv_slots import SlotTable
from edge_node.requests.prompt_lookup import PromptLookup
from schemas.codec import Kind
from tests.support.guessing import always_guess, guess_of
from tests.support.simulated_ring import SimulatedRing, prompt, reference_tokens
from tests.support.strategies import examples


def test_what_followed_the_same_tokens_is_guessed() -> None:
    prompt_lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 9, 2, 3])
    assert prompt_lookup.guess(2) == [4, 5]
    prompt_lookup.take(10, [4, 5, 6])
    assert prompt_lookup.guess(2) == [7, 9]


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    assert PromptLookup(list(range(50))).guess(4) == []


def test_the_longest_match_is_taken_and_of_several_the_newest() -> None:
    assert PromptLookup([1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3]).guess(1) == [4]
    assert PromptLookup([1, 2, 3, 4, 9, 1, 2, 3, 5, 8, 1, 2, 3]).guess(1) == [5]


def test_what_repeats_itself_is_guessed_beyond_the_end_of_the_text() -> None:
    assert PromptLookup([1, 2, 3] * 3).guess(7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_token_that_is_replaced_once_is_replaced_again() -> None:
    source = [1, 2, 3, 4, 50, 5, 6, 7, 8, 50, 9, 10]
    prompt_lookup = PromptLookup([*source, 99, 1, 2, 3, 4])
    assert prompt_lookup.guess(2) == [50, 5]
    prompt_lookup.take(len(prompt_lookup.ids), [60])
    assert prompt_lookup.guess(2) == [5, 6], "the text goes on behind what was replaced"
    prompt_lookup.take(len(prompt_lookup.ids), [5])
    assert prompt_lookup.guess(5) == [6, 7, 8, 60, 9]


def test_tokens_that_count_no_more_are_forgotten() -> None:
    text = random.Random(3).choices(range(6), k=60)
    prompt_lookup = PromptLookup(text[:40])
    prompt_lookup.take(40, [7, 7, 7, 7])
    prompt_lookup.take(41, text[41:50])
    fresh = PromptLookup([*text[:40], 7, *text[41:50]])
    assert prompt_lookup.ids == fresh.ids
    assert prompt_lookup.guess(5) == fresh.guess(5)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 20))
def test_where_nothing_may_follow_nothing_is_guessed(text: list[int], answer: int) -> None:
    prompt_lookup = PromptLookup(text[:-answer])
    for token in text[-answer:]:
        may_follow = prompt_lookup.may_follow(token)
        prompt_lookup.take(len(prompt_lookup.ids), [token])
        assert may_follow or not prompt_lookup.guess(1)


def test_in_a_text_that_is_new_nothing_may_follow() -> None:
    prompt_lookup = PromptLookup(list(range(50)))
    assert not prompt_lookup.may_follow(50)
    assert not prompt_lookup.may_follow(7)
    prompt_lookup.take(50, [49])
    assert prompt_lookup.may_follow(49), "the same three times"


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 60))
@examples(200)
def test_what_is_guessed_has_followed_the_longest_match(ids: list[int], prompt_tokens: int) -> None:
    prompt_lookup = PromptLookup(ids[:prompt_tokens])
    prompt_lookup.take(prompt_tokens, ids[prompt_tokens:])
    if prompt_tokens < len(ids):
        return  # it follows what it has, which is the longest one as long as it is right
    ends = range(2, len(ids))
    lengths = {
        end: next(n for n in itertools.count() if n == end or ids[end - 1 - n] != ids[len(ids) - 1 - n]) for end in ends
    }
    longest = max(lengths.values(), default=0)
    if longest < 2:
        assert prompt_lookup.guess(1) == []
    else:
        assert prompt_lookup.guess(1) == [ids[max(end for end in ends if lengths[end] == longest)]]


def test_it_learns_how_good_it_is_from_every_token() -> None:
    luck = random.Random(5)
    prompt_lookup = PromptLookup([1, 2, 3] * 8)
    assert next(prompt_lookup.chances()) > 0.9
    for _ in range(60):
        prompt_lookup.take(len(prompt_lookup.ids), [1, 2, luck.randrange(10, 10**6)])
    prompt_lookup.take(len(prompt_lookup.ids), [1, 2])
    assert next(prompt_lookup.chances()) < 0.1, "nobody guessed, but it would have been wrong"


@pytest.mark.parametrize("stages", [2, 3, 5])
@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("windows", [1, 2, 8])
def test_guesses_change_no_token(stages: int, right: float, windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_ids = prompt(20)
    expected = reference_tokens(prompt_ids, 30, stages)
    always_guess(monkeypatch, guess_of({tuple(prompt_ids): expected}, random.Random(7), right))
    ring = SimulatedRing(stages, chunk_tokens=8)
    answer = ring.open(1, prompt_ids, 30, draft_tokens=4, draft_windows=windows)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected
    steps = len(ring.nodes[ring.ring[-1]].rows_run)
    assert steps < 20 if right == 1.0 else steps <= 33
    assert ring.frames[Kind.REPLAY] == 0, "a wrong guess costs its own work, and no other"


@pytest.mark.parametrize(("requests", "guesses"), [(2, True), (3, False)])
def test_guesses_are_for_nodes_that_would_be_idle(
    requests: int, guesses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_guess(monkeypatch, lambda prompt_lookup, most: [1, 2][:most])
    ring = SimulatedRing(2)
    ring.deploy(["node0", "node1", "node0"])  # three stages, but two nodes
    answers = [ring.open(number, prompt(20), 30, draft_tokens=2) for number in range(requests)]
    ring.run(lambda: all(answer.complete for answer in answers))
    verified = [row for node in ring.nodes.values() for row in node.rows_run if row.verify]
    assert bool(verified) is guesses


@given(seed=st.integers(0, 10**6), windows=st.integers(1, 8), right=st.sampled_from([0.5, 0.7, 0.95, 1.0]))
@example(seed=17784, windows=1, right=0.7)  # asked for again what an older run knew, behind a newer one's wrong guesses
@example(seed=790, windows=1, right=0.7)  # the same while the run that would put it right is lost
@examples(80)
def test_guesses_over_a_bad_network(seed: int, windows: int, right: float) -> None:
    luck = random.Random(seed)
    prompt_ids = prompt(20)
    expected = reference_tokens(prompt_ids, 40, 3)
    with pytest.MonkeyPatch.context() as patch:
        always_guess(patch, guess_of({tuple(prompt_ids): expected}, luck, right))
        ring = SimulatedRing(3)
        ring.fate = lambda frame, topic: luck.choices([(), (0.0,), (0.0, 0.0), (3.0,), (0.0, 3.0)], [1, 12, 4, 1, 1])[0]
        answer = ring.open(1, prompt_ids, 40, draft_tokens=3, draft_windows=windows)
        ring.run(lambda: answer.complete)
    assert answer.ids == expected


def test_a_conversation_goes_on_in_the_rows_it_has() -> None:
    ring = SimulatedRing(3)
    first = ring.open(1, prompt(30), 10)
    ring.run(lambda: first.complete)
    ring.close(first)
    before = sum(row.count for row in ring.nodes["node1"].rows_run)
    longer = [*prompt(30), *first.ids, *prompt(6)]
    second = ring.open(2, longer, 10, prefix_request=1, prefix_tokens=39)
    ring.run(lambda: second.complete)
    assert second.ids == reference_tokens(longer, 10, 3)
    computed = sum(row.count for row in ring.nodes["node1"].rows_run) - before
    assert computed == len(longer) - 39 + 9


@pytest.mark.parametrize("forgetful", [["node0"], ["node1"], ["node2"], ["node0", "node1", "node2"]])
def test_a_prefix_that_a_stage_lost_is_computed_again(forgetful: list[str]) -> None:
    ring = SimulatedRing(3)
    first = ring.open(1, prompt(30), 10)
    ring.run(lambda: first.complete)
    ring.close(first)
    for name in forgetful:
        for stage in ring.nodes[name].core._stages.values():
            stage.slots = SlotTable(stage.spec.segment.slots)
    longer = [*prompt(30), *first.ids, *prompt(6)]
    second = ring.open(2, longer, 10, prefix_request=1, prefix_tokens=39)
    ring.run(lambda: second.complete)
    assert second.ids == reference_tokens(longer, 10, 3)


def test_a_shared_beginning_serves_several() -> None:
    ring = SimulatedRing(2, slots=4)
    first = ring.open(1, prompt(30), 4)
    ring.run(lambda: first.complete)
    ring.close(first)
    answers = [ring.open(n, [*prompt(20), n, n, n], 6, prefix_request=1, prefix_tokens=20) for n in (5, 6, 7)]
    ring.run(lambda: all(answer.complete for answer in answers))
    for number, answer in zip((5, 6, 7), answers, strict=True):
        assert answer.ids == reference_tokens([*prompt(20), number, number, number], 6, 2)


@given(st.lists(st.tuples(st.sampled_from(["take", "park"]), st.integers(0, 5), st.integers(0, 9)), max_size=60))
@examples(200)
def test_no_slot_is_given_twice(actions: list[tuple[str, int, int]]) -> None:
    table = SlotTable(3)
    in_use: dict[int, int] = {}
    numbers = itertools.count(100)
    for action, which, length in actions:
        if action == "take":
            grant = table.take(which, length)
            assert (grant is None) == (len(in_use) == 3)
            if grant is not None:
                assert grant.slot not in in_use.values()
                assert grant.copy_from is None or grant.copy_from not in (*in_use.values(), grant.slot)
                in_use[next(numbers)] = grant.slot
        elif in_use:
            request, slot = in_use.popitem()
            table.park(which if which < 4 else request, slot, length)
