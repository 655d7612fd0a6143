"""Graphs with matrices in blocks, run by ONNX Runtime: products, look-ups, the head, channels kept out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from orchestrator.model.assemble import set_accuracy_level
from orchestrator.model.quantise import decoder
from orchestrator.model.quantise.head import SHORTLIST
from orchestrator.model.quantise.outliers import outlying_channels
from schemas.segment_tensors import IDS
from tests.support.block_weights import floats, rounded
from tests.support.quantised_graphs import WEIGHTS, WIDTH, graph, quantised

VOCABULARY = 320
EXACT = 1


def run(
    model: ModelProto, folder: Path, *, ids: list[int] | None = None, x: NDArray[np.float32] | None = None
) -> NDArray:
    for node in model.graph.node:
        set_accuracy_level(node, EXACT)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {IDS: np.array([ids or [0]], np.int64), "x": x if x is not None else np.zeros((1, 1, WIDTH), np.float32)}
    return session.run(None, feeds)[0]


def inputs(rows: int = 3, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (1, rows, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q3_K", "Q6_K"])
def test_products_are_those_of_the_weights(tmp_path: Path, kind: str) -> None:
    weights, x = rounded(kind, WIDTH, WIDTH), inputs()
    model = graph(
        {"w": weights.T, "v": floats(8, WIDTH).T}, [("MatMul", ["x", "w"], "y"), ("MatMul", ["y", "v"], "z")], "y"
    )
    made = quantised(model, tmp_path)
    assert {n.op_type for n in made.graph.node} >= {"MatMulNBits"}
    wanted = x @ weights.T
    # A correction has eight bits; that of five bits with an offset is the largest beside what it corrects.
    np.testing.assert_allclose(run(made, tmp_path, x=x), wanted, atol=np.abs(wanted).max() * 3e-3)


def test_means_of_an_input_are_made_once_for_all_that_read_it(tmp_path: Path) -> None:
    gate, up = rounded("Q4_1", WIDTH, WIDTH), rounded("Q4_1", WIDTH, WIDTH, seed=1)
    model = graph(
        {"gate": gate.T, "up": up.T, "head": floats(8, WIDTH).T},
        [
            ("MatMul", ["x", "gate"], "a"),
            ("MatMul", ["x", "up"], "b"),
            ("Add", ["a", "b"], "y"),
            ("MatMul", ["y", "head"], "z"),
        ],
        "y",
    )
    made = quantised(model, tmp_path)
    assert [n.op_type for n in made.graph.node].count("ReduceMean") == 1
    wanted = inputs() @ (gate + up).T
    np.testing.assert_allclose(run(made, tmp_path, x=inputs()), wanted, atol=np.abs(wanted).max() * 2e-3)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q8_0"])
def test_rows_that_are_looked_up_are_exact(tmp_path: Path, kind: str) -> None:
    table = rounded(kind, VOCABULARY, WIDTH)
    made = quantised(graph({"table": table}, [("Gather", ["table", IDS], "y")], "y"), tmp_path)
    rows = run(made, tmp_path, ids=[7, 0, 319])[0]
    np.testing.assert_allclose(rows, table[[7, 0, 319]], atol=np.abs(table).max() * 1e-3)


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q8_0"])
def test_rows_of_a_small_tied_table_are_those_that_are_multiplied(tmp_path: Path, kind: str) -> None:
    table = rounded(kind, VOCABULARY, WIDTH)
    nodes = [("Transpose", ["w"], "t"), ("Gather", ["t", IDS], "e"), ("MatMul", ["e", "w"], "y")]
    made = quantised(graph({"w": table.T}, nodes, "y"), tmp_path)
    wanted = table[[7, 0, 319]] @ table.T
    np.testing.assert_allclose(run(made, tmp_path, ids=[7, 0, 319])[0], wanted, atol=np.abs(wanted).max() * 5e-3)


def test_five_bits_take_five(tmp_path: Path) -> None:
    sizes = {}
    for kind in ("Q5_0", "Q6_K", "Q8_0"):
        model = graph({"table": rounded(kind, 1024, WIDTH)}, [("Gather", ["table", IDS], "y")], "y")
        quantised(model, tmp_path)
        sizes[kind] = (tmp_path / WEIGHTS).stat().st_size * 8 / (1024 * WIDTH)
    assert sizes == {"Q5_0": 5.5, "Q6_K": 7.0, "Q8_0": 8.5}


@pytest.mark.parametrize("kind", ["Q5_0", "Q6_K", "Q8_0", "Q5_1", None])
def test_a_head_in_two_passes_is_exact_where_tokens_are_likely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    monkeypatch.setattr(decoder, "LARGE_VOCABULARY", VOCABULARY)
    weights = rounded(kind, VOCABULARY, WIDTH) if kind else floats(VOCABULARY, WIDTH)
    nodes = [("Transpose", ["w"], "turned"), ("Gather", ["turned", IDS], "e"), ("MatMul", ["x", "w"], "y")]
    made = quantised(graph({"w": weights.T}, nodes, "y"), tmp_path)
    assert "TopK" in {n.op_type for n in made.graph.node}
    x = inputs(8)
    logits, wanted = run(made, tmp_path, x=x)[0], (x @ weights.T)[0]
    size = np.abs(wanted).max()
    for row, expected in zip(logits, wanted, strict=True):
        near = np.abs(row - expected) <= size * 6e-3
        likely = np.argsort(-expected)[: SHORTLIST // 2]
        assert near[likely].all()
        assert row.argmax() == expected.argmax()
        assert np.abs(row - expected).max() < size * 0.2


def test_a_tied_table_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "LARGE_VOCABULARY", VOCABULARY)
    weights = rounded("Q8_0", VOCABULARY, WIDTH)
    nodes = [("Transpose", ["w"], "turned"), ("Gather", ["turned", IDS], "e"), ("MatMul", ["x", "w"], "y")]
    made = quantised(graph({"w": weights.T}, nodes, "e"), tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size < 1.6 * VOCABULARY * WIDTH * 8.5 / 8
    np.testing.assert_allclose(run(made, tmp_path, ids=[3])[0, 0], weights[3], atol=1e-3)


def test_channels_kept_out_leave_the_product_as_it_was(tmp_path: Path) -> None:
    weights, gain = rounded("Q4_1", WIDTH, WIDTH), np.ones(WIDTH, np.float32)
    gain[[5, 40]] = 50
    nodes = [
        ("SimplifiedLayerNormalization", ["x", "gain"], "normed"),
        ("MatMul", ["normed", "w"], "y"),
        ("MatMul", ["y", "v"], "z"),
    ]
    x = inputs(16)
    normed = x[0] / np.sqrt(np.square(x[0]).mean(axis=1, keepdims=True)) * gain
    channels = outlying_channels(normed, products=1)
    assert channels is not None
    assert {5, 40} <= set(channels)
    made = quantised(
        graph({"gain": gain, "w": weights.T, "v": floats(8, WIDTH).T}, nodes, "y"), tmp_path, {"normed": channels}
    )
    assert "Gather" in {n.op_type for n in made.graph.node}
    wanted = normed @ weights.T
    np.testing.assert_allclose(run(made, tmp_path, x=x)[0], wanted, atol=np.abs(wanted).max() * 3e-3)


def test_even_inputs_have_no_channels_worth_keeping_out() -> None:
    assert outlying_channels(inputs(32)[0], products=1) is None


def test_the_more_matrices_read_an_input_the_more_keeping_channels_out_has_to_gain() -> None:
    values = inputs(32)[0].copy()
    values[:, 5] *= 12
    assert outlying_channels(values, products=1) is not None
    assert outlying_channels(values, products=3) is None
    values[:, 5] *= 12
    assert outlying_channels(values, products=3) is not None


@pytest.mark.parametrize(("columns", "is_filled"), [(64, True), (576, False), (896, True), (1024, False), (1536, True)])
def test_zeros_are_put_between_means_where_that_takes_fewer_blocks(
    tmp_path: Path, columns: int, is_filled: bool
) -> None:
    weights, x = rounded("Q4_1", 32, columns), np.random.default_rng(1).standard_normal((1, 3, columns), np.float32)
    nodes = [("MatMul", ["x", "w"], "y"), ("MatMul", ["y", "head"], "z")]
    model = graph({"w": weights.T, "head": floats(8, 32).T}, nodes, "y", width=columns)
    made = quantised(model, tmp_path)
    assert ("Pad" in {n.op_type for n in made.graph.node}) == is_filled
    wanted = x @ weights.T
    np.testing.assert_allclose(run(made, tmp_path, x=x), wanted, atol=np.abs(wanted).max() * 5e-3)


def test_inputs_that_are_no_whole_blocks_have_none_either() -> None:
    values = inputs(32)[0, :, :40].copy()
    values[:, 3] = 50
    assert outlying_channels(values, products=1) is None
