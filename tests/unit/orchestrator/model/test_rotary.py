"""Rotary tables that a graph computes itself: the same values, for as many positions as asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from orchestrator.model.rotary import compute_tables, computed_rows, limit_tables, row_bytes, table_values

HALF = 32
PAIR = ("cos_cache", "sin_cache")
Tables = tuple[NDArray[np.float32], NDArray[np.float32]]


def tables(rows: int, theta: float = 10_000.0, slower: float = 1.0, factor: float = 1.0) -> Tables:
    """As converters make them: in float32, the product of position and frequency included."""
    frequencies = (theta ** (-np.arange(HALF, dtype=np.float32) / HALF) / np.float32(slower)).astype(np.float32)
    angles = np.arange(rows, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles) * np.float32(factor), np.sin(angles) * np.float32(factor)


def graph(made: Tables) -> ModelProto:
    attention = helper.make_node("GroupQueryAttention", [*"abcdefg", *PAIR], ["y"], domain="com.microsoft")
    weights = [numpy_helper.from_array(np.ascontiguousarray(t), name) for t, name in zip(made, PAIR, strict=True)]
    return helper.make_model(helper.make_graph([attention], "test", [], [], weights))


@pytest.mark.parametrize(
    "given",
    [
        tables(64),
        tables(2048),
        tables(32_768, theta=1e6),
        tables(131_072, theta=500_000.0, slower=8),
        tables(8192, factor=1.19),
        tables(4096, theta=1e20),
    ],
)
def test_tables_are_computed_to_the_last_places(given: Tables) -> None:
    model = graph(given)
    compute_tables(model, Path())
    initializers = {t.name: t for t in model.graph.initializer}
    assert not set(PAIR) & set(initializers), "nothing of them is stored"
    assert computed_rows(initializers, PAIR[0]) == len(given[0])
    assert row_bytes(initializers) == 2 * HALF * 4
    for found, wanted in zip(table_values(model.graph, PAIR, Path()), given, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_tables_end_at_the_last_position_that_is_served() -> None:
    given = tables(2048)
    model = graph(given)
    compute_tables(model, Path())
    limit_tables(model.graph.initializer, 100)
    for found, wanted in zip(table_values(model.graph, PAIR, Path()), given, strict=True):
        assert found.shape == (100, HALF)
        np.testing.assert_allclose(found, wanted[:100], atol=2e-6)
    limit_tables(model.graph.initializer, 5000)
    assert len(table_values(model.graph, PAIR, Path())[0]) == 100, "there are no more rows than there were"


def test_tables_of_another_form_stay_as_they_are() -> None:
    cos, sin = tables(2048)
    turned = cos.copy()
    turned[1500, 3] += 1e-4
    in_float64 = np.arange(2048)[:, None] * 10_000.0 ** (-np.arange(HALF) / HALF) * 100
    others = [
        (turned, sin),
        (np.cos(in_float64).astype(np.float32), np.sin(in_float64).astype(np.float32)),
        tables(16),
    ]
    for given in others:
        model = graph(given)
        compute_tables(model, Path())
        assert {t.name for t in model.graph.initializer} == set(PAIR)
        assert computed_rows({t.name: t for t in model.graph.initializer}, PAIR[0]) is None
        np.testing.assert_array_equal(table_values(model.graph, PAIR, Path())[0], given[0])
