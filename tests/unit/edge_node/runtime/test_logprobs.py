"""How likely a token was: the model's own distribution, against float64, whatever the logits are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.runtime.logprobs import token_logprobs
from schemas.limits import LEAST_LOGPROB
from schemas.logprobs import Logprobs, unpack_logprobs
from tests.support.strategies import examples

NUMBERS = st.floats(-30, 30, width=16)


def told(logits: Any, token: int, alternatives: int) -> Logprobs:
    return unpack_logprobs(token_logprobs(logits, token, alternatives))


@given(
    st.lists(NUMBERS, min_size=1, max_size=40), st.integers(0, 20), st.sampled_from([np.float16, np.float32]), st.data()
)
@examples(100)
def test_logarithms_of_probabilities_against_the_plain_definition(
    numbers: list[float], alternatives: int, dtype: Any, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(numbers) - 1))
    logits = np.array(numbers, dtype)
    before = logits.copy()
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum())
    found = told(logits, token, alternatives)
    order = sorted(range(len(numbers)), key=lambda place: (-exact[place], place))[:alternatives]
    assert list(found.ids) == order, "the likeliest first, of equal ones the lowest id"
    assert found.token == pytest.approx(min(exact[token], 0.0), abs=1e-4)
    assert list(found.values) == pytest.approx([min(exact[place], 0.0) for place in order], abs=1e-4)
    assert (logits == before).all()


def test_what_is_hardly_likelier_is_likelier() -> None:
    logits = np.array([0.0, 6e-8, 3.0], np.float16)
    assert list(told(logits, 0, 3).ids) == [2, 1, 0]


def test_what_can_not_come_has_the_least_logarithm() -> None:
    found = told(np.array([1.0, -np.inf], np.float32), 1, 2)
    assert (found.token, list(found.ids), list(found.values)) == (LEAST_LOGPROB, [0, 1], [0.0, LEAST_LOGPROB])
