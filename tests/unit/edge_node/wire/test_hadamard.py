"""Hadamard's transform in runs."""

from __future__ import annotations

import numpy as np
import pytest

from edge_node.wire.hadamard import hadamard


def _matrix(run: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < run:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    return matrix


@pytest.mark.parametrize("run", [1, 2, 8, 64])
def test_is_the_product_with_the_matrix(run: int) -> None:
    values = np.random.default_rng(run).integers(-1000, 1000, (5, 192)).astype(np.float32)  # sums are exact
    expected = (values.reshape(-1, run) @ _matrix(run)).reshape(values.shape)
    assert (hadamard(values, run) == expected).all()


@pytest.mark.parametrize("run", [1, 2, 8, 64])
def test_twice_is_a_multiple(run: int) -> None:
    values = np.random.default_rng(run).integers(-1000, 1000, (5, 192)).astype(np.float32)
    assert (hadamard(hadamard(values, run), run) == run * values).all()


def test_a_row_is_the_same_whatever_is_beside_it() -> None:
    values = np.random.default_rng(0).standard_normal((128, 576)).astype(np.float32)
    alone = np.concatenate([hadamard(values[row : row + 1], 64) for row in range(128)])
    assert (hadamard(values, 64) == alone).all()
