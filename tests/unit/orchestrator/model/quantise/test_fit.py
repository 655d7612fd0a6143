"""Weights that are rounded for the first time."""

from __future__ import annotations

import numpy as np

from orchestrator.model.quantise.fit import INT4, INT8, fitted
from tests.support.block_weights import floats, rounded


def error(weights: np.ndarray, made: np.ndarray) -> float:
    return float(np.linalg.norm(made - weights) / np.linalg.norm(weights))


def test_eight_bits_are_nearly_exact_and_four_are_better_than_the_range_divided() -> None:
    weights = floats(64, 128)
    assert error(weights, fitted(weights, INT8).dequantised()) < 0.006
    blocks = weights.reshape(-1, 32)
    low, step = blocks.min(axis=1, keepdims=True), np.ptp(blocks, axis=1, keepdims=True) / 15
    plain = (low + step * np.rint((blocks - low) / step)).reshape(weights.shape)
    assert error(weights, fitted(weights, INT4).dequantised()) < 0.97 * error(weights, plain)


def test_what_lies_on_levels_stays_where_it_is() -> None:
    weights = rounded("Q4_1", 16, 64)
    np.testing.assert_allclose(fitted(weights, INT4).dequantised(), weights, atol=1e-5)


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((4, 64), np.float32)
    for form in (INT4, INT8):
        assert not np.abs(fitted(zeros, form).dequantised()).max() > 1e-20
