"""Graphs whose corrections are written into packed weights, against their products in float64, run by ONNX Runtime."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from edge_node.runtime.packed_corrections import opening
from edge_node.runtime.packed_corrections.opening import open_with_corrections
from edge_node.runtime.packed_corrections.trial import works_here
from edge_node.runtime.session import open_session
from orchestrator.model.quantise import decoder
from schemas.segment_tensors import IDS
from tests.support.block_weights import floats, rounded
from tests.support.quantised_graphs import graph, quantised

ROUNDING = 0.02
"""Of the largest result: inputs are rounded to eight bits in blocks of 32."""

pytestmark = pytest.mark.skipif(not works_here(4, 32, 1), reason="this processor's kernels have no such sums")


def product(folder: Path, weights: NDArray[np.float32]) -> Path:
    """A graph that multiplies ``x`` [1, S, K] with weights [N, K]; a second product makes that no head."""
    columns = weights.shape[1]
    nodes = [("MatMul", ["x", "w"], "y"), ("MatMul", ["x", "v"], "z")]
    made = graph({"w": weights.T, "v": floats(8, columns).T}, nodes, "y", columns)
    return written(quantised(made, folder), folder)


def written(model: ModelProto, folder: Path) -> Path:
    path = folder / "graph"
    path.write_bytes(model.SerializeToString())
    return path


def inputs(columns: int, rows: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0.2, 1, (1, rows, columns)).astype(np.float32)


def feeds(x: NDArray[np.float32]) -> dict[str, NDArray]:
    return {IDS: np.array([[1]], np.int64), "x": x}


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(64, 64), (1536, 576), (64, 1536), (72, 96), (17, 576)],
    ids=["means filled up", "means three times", "two blocks of means", "half a panel", "a row more"],
)
@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1"])
def test_products_are_those_of_the_weights(tmp_path: Path, kind: str, rows: int, columns: int) -> None:
    weights = rounded(kind, rows, columns)
    path = product(tmp_path, weights)
    session = open_with_corrections(path, 1)
    assert session is not None
    for count in (1, 2, 5, 40):
        x = inputs(columns, count)
        (found,) = session.run(["y"], feeds(x))
        wanted = x.astype(np.float64) @ weights.T
        assert np.abs(found - wanted).max() <= ROUNDING * np.abs(wanted).max()
        (plain,) = open_session(path, 1).run(["y"], feeds(x))
        assert np.abs(found - plain).max() <= ROUNDING * np.abs(wanted).max()


def test_nothing_is_left_behind_and_the_blobs_are_as_before(tmp_path: Path) -> None:
    path = product(tmp_path, rounded("Q4_1", 64, 64))
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert open_with_corrections(path, 1) is not None
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_means_and_what_makes_them_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = product(tmp_path, rounded("Q4_1", 576, 576))
    seen: list[ModelProto] = []

    def opened(made: Path, threads: int) -> object:
        model = onnx.load(str(made), load_external_data=False)
        seen.append(model)
        return open_session(made, threads)

    monkeypatch.setattr(opening, "open_session", opened)
    assert open_with_corrections(path, 1) is not None
    (model,) = seen
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 1
    assert not {"Concat", "ReduceMean", "Reshape", "Pad"}.intersection(kinds)
    before = onnx.load(str(path), load_external_data=False)
    for part in ("opset_import", "metadata_props", "ir_version", "producer_name"):
        assert getattr(model, part) == getattr(before, part)
    assert (model.graph.input, model.graph.output) == (before.graph.input, before.graph.output)


def test_a_head_whose_table_is_looked_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its means are of inputs that are not multiplied by 16 as the others are; its codes stay for look-ups."""
    monkeypatch.setattr(decoder, "LARGE_VOCABULARY", 320)
    weights = rounded("Q6_K", 320, 64)
    nodes = [("Transpose", ["w"], "turned"), ("Gather", ["turned", IDS], "e"), ("MatMul", ["x", "w"], "y")]
    path = written(quantised(graph({"w": weights.T}, nodes, "y"), tmp_path), tmp_path)
    session = open_with_corrections(path, 1)
    if session is None:  # blocks of 16 are not what every kernel takes
        assert not works_here(4, 16, 1)
        return
    x = inputs(64, 8)
    found, plain = (one.run(["y"], feeds(x))[0] for one in (session, open_session(path, 1)))
    wanted = x.astype(np.float64) @ weights.T
    best = wanted.argmax(-1)
    assert (found.argmax(-1) == best).all()
    assert np.abs(found.max(-1) - plain.max(-1)).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_a_graph_without_corrections_is_left_to_others(tmp_path: Path, kind: str) -> None:
    assert open_with_corrections(product(tmp_path, rounded(kind, 64, 64)), 1) is None


def test_matrices_that_are_alike_are_told_apart_or_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same scales and other corrections: nobody could say which of two packed ones is which."""
    first = rounded("Q4_1", 64, 64)
    blocks = first.reshape(64, 2, 32)
    second = (blocks + np.float32(1 / 128)).reshape(64, 64)
    nodes = [("MatMul", ["x", "a"], "p"), ("MatMul", ["x", "b"], "q"), ("Add", ["p", "q"], "y")]
    nodes.append(("MatMul", ["y", "v"], "z"))
    made = graph({"a": first.T, "b": second.T, "v": floats(8, 64).T}, nodes, "y")
    path = written(quantised(made, tmp_path), tmp_path)
    session = open_with_corrections(path, 1) or open_session(path, 1)
    x = inputs(64)
    wanted = x.astype(np.float64) @ (first + second).T
    (found,) = session.run(["y"], feeds(x))
    assert np.abs(found - wanted).max() <= ROUNDING * np.abs(wanted).max()


def test_a_disk_without_room_costs_speed_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = product(tmp_path, rounded("Q4_1", 64, 64))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opening.tempfile, "NamedTemporaryFile", full)
    with caplog.at_level(logging.WARNING):
        assert open_with_corrections(path, 1) is None
    assert "No space left on device" in caplog.text


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of this processor only it is known")
def test_x86_takes_them() -> None:
    """What the figures in docs/performance.md come from; with AVX2 or newer kernels have the sums."""
    flags = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    assert works_here(4, 32, 1) or "avx2" not in flags
