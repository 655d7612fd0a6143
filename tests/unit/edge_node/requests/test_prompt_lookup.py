"""Guesses: what is guessed, when it stops, and that neither guesses nor reused prefixes change a token."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_node.requests.kv_slots import SlotTable
from edge_node.requests.prompt_lookup import PromptLookup
from tests.support.simulated_ring import VOCABULARY, SimulatedRing, prompt, reference_tokens
from tests.support.strategies import examples


def wrong_now_and_then(tokens: list[int], luck: random.Random, right: float) -> list[int]:
    return [token if luck.random() < right else (token + 1) % VOCABULARY for token in tokens]


def test_what_followed_the_same_tokens_is_guessed() -> None:
    prompt_lookup = PromptLookup(4, [1, 2, 3, 4, 5, 6, 7, 9, 2, 3])
    assert list(prompt_lookup.guess()) == [4, 5]
    prompt_lookup.chosen(10, [4, 5, 6], 2, None)
    assert list(prompt_lookup.guess())[:2] == [7, 9]


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    assert PromptLookup(4, list(range(50))).guess() == ()


def test_wrong_guesses_stop_and_come_back_after_a_while() -> None:
    text = [1, 2, 3] * 8
    prompt_lookup = PromptLookup(4, list(text))
    tries = 0
    while prompt_lookup.guess() and tries < 50:
        prompt_lookup.chosen(len(prompt_lookup.ids), [1 + len(prompt_lookup.ids) % 3], 3, 0.01)
        tries += 1
    assert 0 < tries < 20
    for _ in range(500):
        if prompt_lookup.guess():
            break
        prompt_lookup.chosen(len(prompt_lookup.ids), [1 + len(prompt_lookup.ids) % 3], 0, 0.01)
    assert prompt_lookup.guess()


def test_guesses_that_cost_more_than_they_gain_stop() -> None:
    prompt_lookup = PromptLookup(4, [1, 2, 3] * 8)
    prompt_lookup.chosen(24, [1], 0, 0.010)
    for _ in range(40):
        guess = prompt_lookup.guess()
        if not guess:
            break
        # Every guess is right, but a guess takes as long as a step of its own.
        tokens = [1 + (len(prompt_lookup.ids) + index) % 3 for index in range(len(guess) + 1)]
        prompt_lookup.chosen(len(prompt_lookup.ids), tokens, len(guess), 0.010 * (1 + 1.2 * len(guess)))
    assert not prompt_lookup.guess()


@pytest.mark.parametrize("stages", [2, 3, 5])
@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_guesses_change_no_token(stages: int, right: float, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_ids = prompt(20)
    expected = reference_tokens(prompt_ids, 30, stages)
    luck = random.Random(7)

    def guess(prompt_lookup: PromptLookup) -> list[int]:
        done = len(prompt_lookup.ids) - len(prompt_ids)
        return wrong_now_and_then(expected[done : done + prompt_lookup.longest], luck, right)

    monkeypatch.setattr(PromptLookup, "guess", guess)
    ring = SimulatedRing(stages)
    answer = ring.open(1, prompt_ids, 30, draft_tokens=4)
    ring.run(lambda: answer.complete)
    assert answer.ids == expected
    steps = len(ring.nodes[ring.ring[-1]].rows_run)
    assert steps < 20 if right == 1.0 else steps <= 33


@pytest.mark.parametrize(("requests", "guesses"), [(2, True), (3, False)])
def test_guesses_are_for_nodes_that_would_be_idle(
    requests: int, guesses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptLookup, "guess", lambda prompt_lookup: [1, 2])
    ring = SimulatedRing(2)
    ring.deploy(["node0", "node1", "node0"])  # three stages, but two nodes
    answers = [ring.open(number, prompt(20), 30, draft_tokens=2) for number in range(requests)]
    ring.run(lambda: all(answer.complete for answer in answers))
    verified = [row for node in ring.nodes.values() for row in node.rows_run if row.verify]
    assert bool(verified) is guesses


@given(seed=st.integers(0, 10**6))
@example(seed=17784)  # tokens are asked for again that an older run knew, behind wrong guesses of a newer one
@example(seed=790)  # the same while the run that would put it right is lost
@examples(40)
def test_guesses_over_a_bad_network(seed: int) -> None:
    luck = random.Random(seed)
    prompt_ids = prompt(20)
    expected = reference_tokens(prompt_ids, 24, 3)

    def guess(prompt_lookup: PromptLookup) -> list[int]:
        done = len(prompt_lookup.ids) - len(prompt_ids)
        return wrong_now_and_then(expected[done : done + prompt_lookup.longest], luck, 0.7)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptLookup, "guess", guess)
        ring = SimulatedRing(3)
        ring.fate = lambda frame, topic: luck.choices([(), (0.0,), (0.0, 0.0), (3.0,), (0.0, 3.0)], [1, 12, 4, 1, 1])[0]
        answer = ring.open(1, prompt_ids, 24, draft_tokens=3)
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
