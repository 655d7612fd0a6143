"""What was rounded to blocks before is found again from its values, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.model.quantise.blocks import Form
from orchestrator.model.quantise.grid import on_a_grid
from tests.support.block_weights import floats, rounded

FORMS = {
    "Q4_0": Form(4, 32, corrected=False),
    "Q4_1": Form(4, 32, corrected=True),
    "Q5_0": Form(8, 32, corrected=False),
    "Q5_1": Form(8, 32, corrected=True),
    "Q8_0": Form(8, 32, corrected=False),
    "Q3_K": Form(4, 16, corrected=False),
    "Q6_K": Form(8, 16, corrected=False),
}


@pytest.mark.parametrize("kind", FORMS)
def test_every_kind_is_carried_over_exactly_in_its_smallest_form(kind: str) -> None:
    weights = rounded(kind, 48, 96)
    found = on_a_grid(weights)
    assert found is not None
    assert found.form == FORMS[kind]
    np.testing.assert_allclose(found.dequantised(), weights, rtol=0, atol=np.abs(weights).max() * 1e-6)


def test_reordered_rows_joined_matrices_and_views_make_no_difference() -> None:
    weights = np.concatenate([rounded("Q4_1", 32, 64), rounded("Q4_0", 16, 64, seed=1)])
    weights = weights[np.random.default_rng(2).permutation(len(weights))]
    found = on_a_grid(np.ascontiguousarray(weights.T).T)
    assert found is not None
    assert found.form == FORMS["Q4_1"]
    np.testing.assert_allclose(found.dequantised(), weights, rtol=0, atol=1e-6)


def test_blocks_of_zeros_and_of_one_value_fit_too() -> None:
    weights = rounded("Q4_1", 8, 64)
    weights[2] = 0
    weights[3] = 0.125
    found = on_a_grid(weights)
    assert found is not None
    np.testing.assert_allclose(found.dequantised(), weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spoilt", [None, (40, 3)])
def test_other_weights_are_not_taken_for_rounded_ones(spoilt: tuple[int, int] | None) -> None:
    weights = floats(64, 64)
    if spoilt is not None:  # a single one that is between two levels
        weights = rounded("Q8_0", 64, 64)
        weights[spoilt] += np.abs(weights).max() / 500
    assert on_a_grid(weights) is None


def test_a_row_that_is_no_multiple_of_a_block_is_left() -> None:
    assert on_a_grid(rounded("Q4_0", 8, 64)[:, :40]) is None
