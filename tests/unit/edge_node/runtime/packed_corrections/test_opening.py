"""Graphs whose corrections are written into packed weights, against their products in float64, run by ONNX Runtime."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_node.runtime.graph_check import check_graph
from edge_node.runtime.packed_corrections import opening
from edge_node.runtime.packed_corrections.opening import open_with_corrections
from edge_node.runtime.packed_corrections.trial import works_here
from edge_node.runtime.session import open_session
from orchestrator.model.quantise import decoder
from schemas.segment_tensors import IDS
from tests.support.block_weights import floats, rounded
from tests.support.quantised_graphs import WEIGHTS, graph, quantised

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


def test_in_threads_at_once_each_has_its_own(tmp_path: Path) -> None:
    path = product(tmp_path, rounded("Q4_1", 256, 256))
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: open_with_corrections(path, 1), range(6)))


def test_of_the_files_only_that_of_the_scales_is_kept_open(tmp_path: Path) -> None:
    """Codes of the size of a model would take its room on the disk once more, for as long as it serves."""
    session = open_with_corrections(product(tmp_path, rounded("Q4_1", 1024, 1024)), 1)
    assert session is not None
    maps = [
        line for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines() if str(tmp_path) in line
    ]
    held = {line.split()[4]: Path("/proc/self/map_files", line.split()[0]).stat().st_size for line in maps}
    assert sum(held.values()) <= 1024 * 32 * 4


def hostile(folder: Path, changes: Callable[[dict[str, Any]], None]) -> Path:
    """A graph as conversions make them but for ``changes``, that the check of graphs accepts."""
    made: dict[str, Any] = {
        "blocks": 8,
        "block": 32,
        "rows": 16,
        "fill": 0,
        "copies": 1,
        "scale": 0.75,
        "outputs": ["y"],
    }
    changes(made)
    blocks, block, rows = made["blocks"], made["block"], made["rows"]
    columns = blocks * block + made["copies"] * (blocks + made["fill"]) - made["fill"]
    total = -(-columns // block)
    scales = np.full((rows, total), made["scale"], np.float32)
    codes = np.full((rows, total, block // 2), 0x37, np.uint8)
    (folder / WEIGHTS).write_bytes(codes.tobytes() + scales.tobytes())
    tensors = [external("codes", codes, 0), external("scales", scales, codes.nbytes)]
    means = ["padded"] * (made["copies"] - 1) if made["fill"] else ["means"] * (made["copies"] - 1)
    nodes = [
        constant("shape", 0, 0, -1, block), constant("axes", -1), constant("pads", 0, 0, 0, 0, 0, made["fill"]),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["means"], keepdims=0),
        helper.make_node("Pad", ["means", "pads"], ["padded"]),
        helper.make_node("Concat", ["x", *means, "means"], ["c"], axis=-1),
        helper.make_node("Identity", ["x"], ["same"]),
        *(helper.make_node("MatMulNBits", ["c", "codes", "scales"], [name], domain="com.microsoft", K=columns, N=rows,
                           bits=4, block_size=block, accuracy_level=4) for name in made["outputs"]),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    shown = value(made.get("shown", "y"), 1, None)
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, "S", blocks * block])], [shown], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = written(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder)
    check_graph(path)
    return path


def constant(name: str, *values: int) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))


def external(name: str, values: NDArray[Any], offset: int) -> TensorProto:
    kind = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}[values.dtype]
    tensor = TensorProto(name=name, data_type=kind, dims=values.shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": WEIGHTS, "offset": offset, "length": values.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize(
    "changes",
    [
        lambda made: made.update(scale=np.nan),
        lambda made: made.update(scale=np.inf),
        lambda made: made.update(scale=0.0),
        lambda made: made.update(scale=3e38),
        lambda made: made.update(copies=2, fill=-8),
        lambda made: made.update(copies=2, fill=-3),
        lambda made: made.update(block=1 << 16, blocks=2),
        lambda made: made.update(rows=1),
        lambda made: made.update(blocks=1),
        lambda made: made.update(outputs=["dead", "other"], shown="same"),
    ],
    ids=["nan", "infinite", "zero", "huge", "fill", "less fill", "block", "one row", "one block", "dead"],
)
def test_what_no_conversion_makes_is_opened_as_it_is(tmp_path: Path, changes: Callable[[dict[str, Any]], None]) -> None:
    """Graphs come from others. Whatever is in one: nothing is written, and what failed before fails as before."""
    path = hostile(tmp_path, changes)
    before = sorted(tmp_path.iterdir())
    assert open_with_corrections(path, 1) is None
    assert sorted(tmp_path.iterdir()) == before


def test_the_same_weights_a_hundred_times_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def opened(made: Path, threads: int) -> object:
        sizes.append(sum(one.stat().st_size for one in tmp_path.glob("*.scratch")))
        return open_session(made, threads)

    monkeypatch.setattr(opening, "open_session", opened)
    path = hostile(tmp_path, lambda made: made.update(outputs=["y", *(f"y{n}" for n in range(99))]))
    open_with_corrections(path, 1)
    path = hostile(tmp_path, lambda _: None)
    open_with_corrections(path, 1)
    assert sizes[0] <= sizes[1]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of this processor only it is known")
def test_x86_takes_them() -> None:
    """What the figures in docs/performance.md come from; with AVX2 or newer kernels have the sums."""
    flags = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    assert works_here(4, 32, 1) or "avx2" not in flags
