"""Rotary tables that a graph computes when it is opened, for as many positions as are served.

A table has a row for each position that the model knows: 32,768 rows of Gemma 3 270M's are 67 MB, a quarter of its
weights. The cosine and sine of a position times a frequency are soon computed anew, so a graph keeps the frequencies
alone, and ONNX Runtime makes the tables when it opens the graph, since nothing changes them afterwards. Tables that
are of another form, or that come out different, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.model.rewrite import replace_nodes
from orchestrator.model.segment_run import open_graph
from orchestrator.model.shapes import FLOAT
from orchestrator.model.weights import float32_values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from orchestrator.model.graph import Decoder

_TABLES = {"GroupQueryAttention": 7, "RotaryEmbedding": 2}
"""Which input of an operator is its cosines; the next one is its sines."""
_LEAST_ROWS = 64
_TOLERANCE = 1e-6
"""The largest difference of a computed value, for a table of values up to one: some units in the last place."""
_NEAR = 3
"""A frequency is looked for among so many float32 values on both sides of the first guess."""
_LIMIT, _FREQUENCIES = "/positions", "/frequencies"
"""How the names of a computed table's number of rows and of its frequencies end."""
_OPSET, _IR = 14, 8
"""Of ONNX, where tables are tried: the operators mean the same in all since."""


def compute_tables(model: ModelProto, folder: Path) -> None:
    """Replace stored tables of a decoder, whose weights are in files of ``folder``, by nodes that make the same.

    Raises:
        BrokenModel: a weight file is missing or too short.
        MissingDependency: onnxruntime is not installed.
    """
    graph = model.graph
    stored = {t.name: t for t in graph.initializer if t.data_type == FLOAT and len(t.dims) == 2}
    nodes: list[NodeProto] = []
    for pair in dict.fromkeys(table_pairs(graph.node)):
        if not all(name in stored and stored[name].dims[0] >= _LEAST_ROWS for name in pair):
            continue
        cos, sin = (float32_values(stored[name], folder) for name in pair)
        frequencies, factor = _formula(cos, sin)
        made, constants = _nodes(frequencies, factor, pair, len(cos))
        if not _same((cos, sin), _run(made, constants, pair), float(factor)):
            continue
        nodes += made
        for name in pair:
            graph.initializer.remove(stored.pop(name))
        graph.initializer.extend(constants)
    if nodes:
        replace_nodes(graph, [*nodes, *graph.node])


def table_pairs(nodes: Iterable[NodeProto]) -> Iterator[tuple[str, str]]:
    """Names of cosines and sines, for each node that turns vectors by them."""
    for node in nodes:
        first = _TABLES.get(node.op_type)
        if first is not None and len(node.input) > first + 1 and node.input[first] and node.input[first + 1]:
            yield node.input[first], node.input[first + 1]


def limit_tables(tensors: Iterable[TensorProto], positions: int) -> None:
    """Have computed tables, some of whose constants are ``tensors``, no more rows than ``positions``."""
    from onnx import numpy_helper

    for tensor in tensors:
        if tensor.name.endswith(_LIMIT):
            rows = min(positions, int(numpy_helper.to_array(tensor)))
            tensor.CopyFrom(numpy_helper.from_array(np.array(rows, np.float32), tensor.name))


def computed_rows(initializers: dict[str, TensorProto], cos: str) -> int | None:
    """How many rows a computed table of cosines has; None if it is not computed."""
    from onnx import numpy_helper

    limit = initializers.get(cos + _LIMIT)
    return None if limit is None else int(numpy_helper.to_array(limit))


def columns(decoder: Decoder, cos: str) -> int:
    """How many values a row of a table of cosines has, computed or not; 0 where that is not known."""
    frequencies = decoder.initializers.get(cos + _FREQUENCIES)
    shape = decoder.weight_shape(cos) if frequencies is None else frequencies.dims
    return int(shape[-1]) if len(shape) else 0


def row_bytes(initializers: dict[str, TensorProto]) -> int:
    """Bytes that all computed tables together take in memory for each position."""
    widths = [t.dims[-1] for name, t in initializers.items() if name.endswith(_FREQUENCIES)]
    return 2 * np.dtype(np.float32).itemsize * int(sum(widths))


def table_values(graph: GraphProto, pair: tuple[str, str], folder: Path) -> tuple[NDArray[np.float32], ...]:
    """Cosines and sines [positions, D / 2], stored ones in files of ``folder``, or computed."""
    stored = {t.name: t for t in graph.initializer}
    if all(name in stored for name in pair):
        return tuple(float32_values(stored[name], folder) for name in pair)
    nodes = [node for node in graph.node if node.name.startswith(f"{pair[0]}/")]
    return _run(nodes, [stored[name] for node in nodes for name in node.input if name in stored], pair)


def _formula(cos: NDArray[np.float32], sin: NDArray[np.float32]) -> tuple[NDArray[np.float32], np.float32]:
    """Frequencies [D / 2] and a factor that give tables of the form ``factor * cos(position * frequency)``.

    The angle of the first position gives a frequency roughly, those of the next powers of two more and more closely.
    The product with a position is rounded to float32, so that in the end the very value counts that the tables were
    made from.
    """
    positions = len(cos)
    frequencies = np.arctan2(sin[1], cos[1], dtype=np.float64)
    power = 2
    while power < positions:
        angle = np.arctan2(sin[power], cos[power], dtype=np.float64)
        turns = np.rint((frequencies * power - angle) / (2 * np.pi))
        frequencies = (angle + 2 * np.pi * turns) / power
        power *= 2
    tried = _neighbours(np.maximum(frequencies, 0).astype(np.float32))
    rows = np.unique(np.linspace(0, positions - 1, 257).astype(np.int64))
    angles = rows.astype(np.float32)[None, :, None] * tried[:, None, :]
    factor = cos[0, 0]
    errors = np.abs(factor * np.cos(angles, dtype=np.float64) - cos[rows]) + np.abs(
        factor * np.sin(angles, dtype=np.float64) - sin[rows]
    )
    best = errors.sum(axis=1).argmin(axis=0)
    return tried[best, np.arange(len(best))], factor


def _neighbours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[2 * _NEAR + 1, D]: the float32 values next to each of ``values`` [D], which are at least zero, and itself."""
    around = np.arange(-_NEAR, _NEAR + 1, dtype=np.int32)[:, None]
    bits: NDArray[np.int32] = np.maximum(values.view(np.int32) + around, 0)  # in the order of the values
    return bits.view(np.float32)


def _nodes(
    frequencies: NDArray[np.float32], factor: np.float32, pair: tuple[str, str], positions: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """What makes the tables ``pair``, and its constants."""
    from onnx import helper, numpy_helper

    cos, sin = pair
    values: dict[str, Any] = {
        "/zero": np.array(0, np.float32),
        _LIMIT: np.array(positions, np.float32),
        "/one": np.array(1, np.float32),
        "/column": np.array([-1, 1], np.int64),
        _FREQUENCIES: frequencies,
        "/factor": np.array(factor),
    }
    constants = [numpy_helper.from_array(value, cos + name) for name, value in values.items()]

    def node(kind: str, inputs: list[str], output: str) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{cos}/{kind}/{output}")

    nodes = [
        node("Range", [cos + "/zero", cos + _LIMIT, cos + "/one"], cos + "/range"),
        node("Reshape", [cos + "/range", cos + "/column"], cos + "/rows"),
        node("Mul", [cos + "/rows", cos + _FREQUENCIES], cos + "/angles"),
    ]
    for kind, name in (("Cos", cos), ("Sin", sin)):
        nodes += [node(kind, [cos + "/angles"], f"{name}/plain"), node("Mul", [f"{name}/plain", cos + "/factor"], name)]
    return nodes, constants


def _run(nodes: list[NodeProto], constants: list[TensorProto], pair: tuple[str, str]) -> tuple[Any, ...]:
    """The tables as ONNX Runtime makes them."""
    from onnx import helper

    outputs = [helper.make_tensor_value_info(name, FLOAT, None) for name in pair]
    graph = helper.make_graph(nodes, "tables", [], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return tuple(open_graph(model.SerializeToString(), Path()).run(list(pair), {}))


def _same(wanted: tuple[Any, ...], made: tuple[Any, ...], factor: float) -> bool:
    most = _TOLERANCE * max(1, factor)
    return all(np.abs(one - other).max() <= most for one, other in zip(wanted, made, strict=True))
