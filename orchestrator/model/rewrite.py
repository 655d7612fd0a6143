"""Changes made to a converted graph before it is packed.

* An embedding that looks rows up in ``Transpose(W)`` (the builder's way of tying it to the head) would hold a second,
  transposed copy of the table in memory: it looks up columns of ``W`` instead. Same bits.
* A choice between two rotary tables by the length of the text (LongRoPE) is settled for the shorter one, and the
  model's context with it. The choice would put both tables into every segment's graph, copy one on every step, and,
  when a text grows past the limit, leave a cache whose keys were turned by the other table.
* Matrices may be stored as float16 behind a ``Cast`` to float32. An embedding is looked up before the cast, so its
  table stays half size in memory too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.model.errors import ConversionFailed
from orchestrator.model.shapes import FLOAT, FLOAT16
from orchestrator.model.weights import INLINE_BYTES, Source, refer
from schemas.segment_tensors import IDS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def untranspose_embedding(model: ModelProto) -> None:
    """Replace ``Gather(Transpose(W), ids)`` by a lookup of columns of ``W`` [hidden, vocabulary]."""
    from onnx import helper

    graph = model.graph
    weights = {t.name for t in graph.initializer}
    transposes = {
        n.output[0]: n
        for n in graph.node
        if n.op_type == "Transpose" and n.input[0] in weights and _ints(n, "perm") in ([], [1, 0])
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = transposes.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or IDS not in node.input or any(a.name == "axis" and a.i for a in node.attribute):
            nodes.append(node)
            continue
        columns = f"{node.output[0]}/columns"  # [hidden, B, S]
        nodes.append(helper.make_node("Gather", [table.input[0], node.input[1]], [columns], axis=1))
        nodes.append(helper.make_node("Transpose", [columns], [node.output[0]], name=node.name, perm=[1, 2, 0]))
    read = {name for node in nodes for name in node.input}
    kept = [n for n in nodes if n.op_type != "Transpose" or n.output[0] not in transposes or n.output[0] in read]
    replace_nodes(graph, kept)


def settle_table_choice(model: ModelProto) -> None:
    """Replace an ``If`` whose branches are nothing but constants by the weights of the branch with fewer rows."""
    from onnx import TensorProto

    graph = model.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        branches = [a.g for a in node.attribute if a.HasField("g")] if node.op_type == "If" else []
        if not branches or any(n.op_type != "Constant" for g in branches for n in g.node):
            nodes.append(node)
            continue
        tables = [_constants(g) for g in branches]
        chosen = min(tables, key=lambda found: sum(t.dims[0] for t in found if t.dims))
        for name, tensor in zip(node.output, chosen, strict=True):
            stored = TensorProto()
            stored.CopyFrom(tensor)
            stored.name = name
            graph.initializer.append(stored)
    replace_nodes(graph, nodes)


def _constants(branch: GraphProto) -> list[TensorProto]:
    made = {n.output[0]: a.t for n in branch.node for a in n.attribute if a.name == "value"}
    return [made[o.name] for o in branch.output]


def matrices(model: ModelProto) -> list[str]:
    """Float32 weights that a MatMul or a lookup of tokens reads: nearly all of a model that is not quantised."""
    nodes = [
        n for n in model.graph.node if n.op_type in ("MatMul", "Gemm") or (n.op_type == "Gather" and IDS in n.input)
    ]
    read = {name for node in nodes for name in node.input}
    return [t.name for t in model.graph.initializer if _is_matrix(t) and t.name in read]


def store_as_half(model: ModelProto, folder: Path, path: Path, names: Iterable[str]) -> None:
    """Turn the named float32 weights into float16 ones in the file ``path`` of ``folder``; readers get them by a Cast.

    Raises:
        ConversionFailed: a value is beyond float16's range.
    """

    wanted = set(names)
    position = 0
    with path.open("wb") as out:
        for tensor in model.graph.initializer:
            if tensor.name not in wanted:
                continue
            length = _write_half(Source.read(tensor, folder), out)
            for field in ("raw_data", "float_data", "external_data"):
                tensor.ClearField(field)
            tensor.data_type = FLOAT16
            refer(tensor, path.name, position, length)
            position += length
    _cast_back(model.graph, wanted)


def _write_half(source: Source, out: BinaryIO) -> int:
    import numpy as np

    written = 0
    for piece in source.pieces():
        with np.errstate(over="ignore"):
            half = np.frombuffer(piece, np.float32).astype(np.float16)
        if not np.isfinite(half).all():
            raise ConversionFailed(f"weight {source.name!r} has values beyond float16's range; use --precision fp32")
        written += out.write(half.tobytes())
    return written


def _cast_back(graph: GraphProto, names: set[str]) -> None:
    from onnx import helper

    nodes: list[NodeProto] = []
    casts: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in names:
            result = node.output[0]
            node.output[0] = f"{result}/half"
            nodes += [node, helper.make_node("Cast", [node.output[0]], [result], to=FLOAT)]
            continue
        for i, name in enumerate(node.input):
            if name in names:
                if name not in casts:
                    casts[name] = f"{name}/float32"
                    nodes.append(helper.make_node("Cast", [name], [casts[name]], to=FLOAT))
                node.input[i] = casts[name]
        nodes.append(node)
    replace_nodes(graph, nodes)


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give a graph other nodes; some may be its own."""
    copies = []
    for node in nodes:  # the list holds references into the graph's own field
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def _is_matrix(tensor: TensorProto) -> bool:
    size = 4
    for dim in tensor.dims:
        size *= dim
    return tensor.data_type == FLOAT and len(tensor.dims) == 2 and size >= INLINE_BYTES


def _ints(node: NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
