"""The choice of a token: greedy, the distributions, the penalty, and that nothing but the arguments decides."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.errors import NotFinite
from edge_node.runtime.sampling import choose_token, draw_uniform
from schemas.messages import Sampling
from tests.support.strategies import examples

DRAWS = 8000
LOGITS = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0], np.float32)
NUMBERS = st.floats(-30, 30, width=32)


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def frequencies(sampling: Sampling, logits: NDArray[np.float32] = LOGITS) -> NDArray[np.int64]:
    chosen = [choose_token(logits, sampling, position, ()) for position in range(DRAWS)]
    return np.bincount(chosen, minlength=logits.size)


def assert_distribution(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> None:
    """Chi-square below its mean plus five standard deviations; nothing outside the support."""
    assert counts[expected == 0].sum() == 0
    support = expected > 0
    wanted = expected[support] / expected[support].sum() * counts.sum()
    chi_square = float(((counts[support] - wanted) ** 2 / wanted).sum())
    freedom = int(support.sum()) - 1
    assert chi_square <= freedom + 5 * (2 * freedom) ** 0.5


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert choose_token(np.array([1.0, 3.0, 3.0, 2.0, 3.0], np.float32), Sampling(), 0, ()) == 1
    assert choose_token(np.array([1.0, 3.0, 3.0], np.float16), Sampling(), 0, ()) == 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_temperature(temperature: float) -> None:
    counts = frequencies(Sampling(temperature=temperature, seed=7))
    assert_distribution(counts, softmax(LOGITS, temperature))


def test_order_of_the_ids_does_not_matter() -> None:
    shuffled = LOGITS[[3, 7, 0, 5, 1, 6, 2, 4]]
    assert_distribution(frequencies(Sampling(temperature=1.0, seed=8), shuffled), softmax(shuffled))


def test_top_k() -> None:
    expected = softmax(LOGITS)
    expected[3:] = 0
    assert_distribution(frequencies(Sampling(temperature=1.0, top_k=3, seed=9)), expected)


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert_distribution(frequencies(Sampling(temperature=1.0, top_k=100, seed=9)), softmax(LOGITS))


def test_top_k_of_equals_keeps_the_lowest_ids() -> None:
    """Half-precision logits tie often, and every device must keep the same ones."""
    logits = np.zeros(5000, np.float32)
    logits[4000] = 1.0
    chosen = {choose_token(logits, Sampling(temperature=1.0, top_k=4, seed=3), p, ()) for p in range(500)}
    assert chosen == {0, 1, 2, 4000}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    expected = softmax(LOGITS)
    keep = int(np.searchsorted(np.cumsum(expected), 0.8)) + 1
    expected[keep:] = 0
    assert_distribution(frequencies(Sampling(temperature=1.0, top_p=0.8, seed=10)), expected)


def test_top_p_of_zero_is_greedy() -> None:
    counts = frequencies(Sampling(temperature=1.5, top_p=0.0, seed=1))
    assert counts[0] == DRAWS


def test_top_p_over_a_flat_large_vocabulary() -> None:
    """Thousands of equally likely tokens: the nucleus is the lowest ids, half of them."""
    logits = np.zeros(20_000, np.float32)
    sampling = Sampling(temperature=1.0, top_p=0.5, seed=2)
    chosen = [choose_token(logits, sampling, position, ()) for position in range(400)]
    assert max(chosen) < 10_001
    assert 4_000 < statistics.mean(chosen) < 6_000


@given(
    st.integers(0, 2**32),
    st.sampled_from([0.3, 1.0, 3.0, 40.0]),
    st.integers(0, 60),
    st.sampled_from([0.0, 0.5, 0.97, 1.0]),
)
def test_draws_from_a_large_vocabulary_against_the_plain_definition(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    """Peaked as a model's and flat: whichever way leads there quickest."""
    logits = np.random.default_rng(seed).normal(size=3000, scale=4.0).astype(np.float32)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    order = np.argsort(-weights, kind="stable")[: top_k or None]
    order = order[: int(np.searchsorted(np.cumsum(weights[order]), top_p * weights[order].sum())) + 1]
    if top_k == 0 and top_p == 1.0:
        order = np.arange(weights.size)
    passed = np.cumsum(weights[order]) > draw_uniform(7, seed) * weights[order].sum()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=7)
    assert choose_token(logits, sampling, seed, ()) == order[passed.argmax()]


def test_top_k_and_top_p_together() -> None:
    expected = softmax(LOGITS)
    expected[4:] = 0
    expected /= expected.sum()
    keep = int(np.searchsorted(np.cumsum(expected), 0.7)) + 1
    expected[keep:] = 0
    assert_distribution(frequencies(Sampling(temperature=1.0, top_k=4, top_p=0.7, seed=11)), expected)


@pytest.mark.parametrize("temperature", [1e-6, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert frequencies(Sampling(temperature=temperature, seed=1))[0] == DRAWS


def test_masked_tokens_are_never_drawn() -> None:
    logits = LOGITS.copy()
    logits[[0, 3]] = -np.inf
    for top_k, top_p in ((0, 1.0), (0, 0.9), (3, 1.0)):
        counts = frequencies(Sampling(temperature=2.0, top_k=top_k, top_p=top_p), logits)
        assert counts[[0, 3]].sum() == 0


@given(st.lists(NUMBERS, min_size=2, max_size=40), st.integers(0, 2**53), st.integers(0, 10**7), st.data())
@examples(100)
def test_a_draw_depends_on_its_arguments_alone(
    logits: list[float], seed: int, position: int, data: st.DataObject
) -> None:
    sampling = Sampling(
        temperature=data.draw(st.floats(0.01, 5)),
        top_k=data.draw(st.integers(0, 50)),
        top_p=data.draw(st.floats(0, 1)),
        seed=seed,
    )
    array = np.array(logits, np.float32)
    before = array.copy()
    first = choose_token(array, sampling, position, ())
    choose_token(array, dataclasses.replace(sampling, seed=seed ^ 1), position + 1, ())
    assert choose_token(array, sampling, position, ()) == first
    assert 0 <= first < array.size
    assert (array == before).all()


def test_seeds_and_positions_give_independent_draws() -> None:
    draws = {draw_uniform(seed, position) for seed in range(50) for position in range(50)}
    assert len(draws) == 2500
    assert all(0 <= draw < 1 for draw in draws)
    assert abs(statistics.mean(draws) - 0.5) < 0.03
    assert draw_uniform(2**53, 10**7) == draw_uniform(2**53, 10**7)


@given(st.lists(NUMBERS, min_size=3, max_size=30), st.floats(0.1, 10), st.data())
@examples(200)
def test_repetition_penalty_against_the_plain_definition(
    logits: list[float], penalty: float, data: st.DataObject
) -> None:
    history = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=20))
    array = np.array(logits, np.float32)
    reference = [
        float(np.float32(value) / np.float32(penalty) if value > 0 else np.float32(value) * np.float32(penalty))
        if index in history
        else value
        for index, value in enumerate(array)
    ]
    chosen = choose_token(array, Sampling(repetition_penalty=penalty), 5, history)
    assert reference[chosen] == pytest.approx(max(reference), rel=1e-6)
    assert (array == np.array(logits, np.float32)).all()


@given(st.lists(NUMBERS, min_size=3, max_size=30), st.floats(-2, 2), st.floats(-2, 2), st.data())
@examples(200)
def test_presence_and_frequency_penalty_against_openais_definition(
    logits: list[float], presence: float, frequency: float, data: st.DataObject
) -> None:
    tokens = st.lists(st.integers(0, len(logits) - 1), max_size=20)
    prompt, own = data.draw(tokens), data.draw(tokens)
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    array = np.array(logits, np.float32)
    reference = [
        float(value) - own.count(index) * frequency - (own.count(index) > 0) * presence
        for index, value in enumerate(array)
    ]
    chosen = choose_token(array, sampling, 5, [*prompt, *own], len(prompt))
    assert reference[chosen] == pytest.approx(max(reference), abs=1e-4)
    assert (array == np.array(logits, np.float32)).all()


def test_the_answers_own_tokens_count_and_the_prompts_do_not() -> None:
    logits = np.array([1.0, 0.9, 0.0], np.float32)
    sampling = Sampling(presence_penalty=0.5)
    assert choose_token(logits, sampling, 3, [0, 0, 0], 3) == 0
    assert choose_token(logits, sampling, 3, [0, 0, 0], 2) == 1


def test_frequency_counts_how_often_and_presence_does_not() -> None:
    logits = np.array([2.0, 0.9, 0.0], np.float32)
    assert choose_token(logits, Sampling(frequency_penalty=0.5), 4, [0, 0, 0], 0) == 1
    assert choose_token(logits, Sampling(presence_penalty=0.5), 4, [0, 0, 0], 0) == 0


@pytest.mark.parametrize("others", [{}, {"top_k": 6}, {"top_p": 0.99}])
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(others: dict[str, float]) -> None:
    expected = softmax(LOGITS, 1.5)
    expected[expected < 0.4 * expected[0]] = 0
    assert 1 < np.count_nonzero(expected) < 6
    assert_distribution(frequencies(Sampling(temperature=1.5, min_p=0.4, seed=12, **others)), expected)


def test_min_p_of_one_is_greedy() -> None:
    assert frequencies(Sampling(temperature=5.0, min_p=1.0, seed=1))[0] == DRAWS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.2)])
def test_not_finite_logits_are_an_error(bad: float, sampling: Sampling) -> None:
    logits = LOGITS.copy()
    logits[5] = bad
    with pytest.raises(NotFinite):
        choose_token(logits, sampling, 0, [1, 5])


def test_all_logits_masked_is_an_error() -> None:
    with pytest.raises(NotFinite):
        choose_token(np.full(4, -np.inf, np.float32), Sampling(temperature=1.0), 0, ())


# --- answers that are bound to a form -------------------------------------------------------------------------------


def bits(*ids: int) -> bytes:
    return sum(1 << number for number in ids).to_bytes(1, "little")


def test_greedy_takes_the_likeliest_of_those_that_may_come() -> None:
    assert choose_token(LOGITS, Sampling(), 0, (), 0, bits(2, 5, 7)) == 2
    assert choose_token(LOGITS, Sampling(), 0, (), 0, 6) == 6


def test_a_draw_is_as_if_there_were_no_other_tokens() -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    ids = [1, 4, 6]
    counts = np.zeros(LOGITS.size, np.int64)
    for position in range(DRAWS):
        token = choose_token(LOGITS, sampling, position, (), 0, bits(*ids))
        assert token == ids[choose_token(LOGITS[ids], sampling, position, ())]
        counts[token] += 1
    expected = softmax(LOGITS)
    expected[[0, 2, 3, 5, 7]] = 0
    assert_distribution(counts, expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-6, 50.0])
@given(st.sets(st.integers(0, 7), min_size=1), st.lists(NUMBERS, min_size=8, max_size=8), st.integers(0, 1000))
@examples(40)
def test_what_may_not_come_never_does(temperature: float, ids: set[int], logits: list[float], position: int) -> None:
    sampling = Sampling(temperature=temperature, top_k=3, top_p=0.9, min_p=0.01, repetition_penalty=1.5, seed=1)
    assert choose_token(np.array(logits, np.float32), sampling, position, (1, 2), 1, bits(*ids)) in ids


@pytest.mark.parametrize("allowed", [bits(0, 1), 1])
def test_logits_that_are_no_numbers_are_found_whatever_may_come(allowed: bytes | int) -> None:
    with pytest.raises(NotFinite):
        choose_token(np.array([0.0, 1.0, np.nan], np.float32), Sampling(), 0, (), 0, allowed)
    with pytest.raises(NotFinite):
        choose_token(np.array([0.0, 1.0, -np.inf], np.float32), Sampling(), 0, (), 0, bits(2))
