"""Element type, rank and last dimension of the tensors of a decoder graph.

What the exporter wrote down (``value_info``) is believed. For the rest ONNX's own shape inference is asked, then a
few rules for the contrib operators that it does not know. Only what a boundary needs is kept: a boundary carries
``[B, S, width]``.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

FLOAT, FLOAT16 = 1, 10  # onnx.TensorProto.DataType
FLOAT_NAMES = {FLOAT: "float32", FLOAT16: "float16"}
_LIKE_FIRST_INPUT = {
    "SkipSimplifiedLayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization",
    "LayerNormalization", "Sigmoid", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Tanh",
}  # fmt: skip


@dataclass(frozen=True)
class TensorType:
    """``rank`` and ``last_dim`` are None where unknown (a symbolic dimension counts as unknown)."""

    elem_type: int
    rank: int | None
    last_dim: int | None


def from_value_info(info: ValueInfoProto) -> TensorType | None:
    """The type of a ``value_info`` entry, None if it says nothing about the element type."""
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        return None
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None, None)
    dims = tensor.shape.dim
    last = dims[-1].dim_value if dims and dims[-1].HasField("dim_value") else None
    return TensorType(tensor.elem_type, len(dims), last)


def tensor_types(model: ModelProto) -> dict[str, TensorType]:
    """Types of all tensors of the top-level graph that could be found out."""
    import onnx

    graph = model.graph
    types = _declared(model)
    if any(n and n not in types for node in graph.node for n in node.output):
        # Contradictory annotations make it give up: what is declared and the rules below must do then.
        with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError):
            types = _declared(onnx.shape_inference.infer_shapes(model)) | types
    weights = {t.name: t for t in graph.initializer}
    for node in graph.node:
        known = types.get(node.output[0]) if node.output else None
        if known is None or known.last_dim is None:
            found = _by_rule(node, types, weights)
            if found is not None:
                types[node.output[0]] = found
    return types


def _declared(model: ModelProto) -> dict[str, TensorType]:
    graph = model.graph
    types = {t.name: TensorType(t.data_type, len(t.dims), t.dims[-1] if t.dims else None) for t in graph.initializer}
    for info in (*graph.input, *graph.output, *graph.value_info):
        found = from_value_info(info)
        if found is not None and info.name not in types:
            types[info.name] = found
    return types


def _by_rule(node: NodeProto, types: dict[str, TensorType], weights: dict[str, TensorProto]) -> TensorType | None:
    first = types.get(node.input[0]) if node.input else None
    attributes = {a.name: a for a in node.attribute}
    if node.op_type in ("Gather", "GatherBlockQuantized") and len(node.input) > 1:
        table, ids = first, types.get(node.input[1])
        if table is None or ids is None or ids.rank is None or table.rank is None:
            return None
        scales = types.get(node.input[2]) if len(node.input) > 2 else None
        last = table.last_dim
        if node.op_type == "GatherBlockQuantized" and last is not None and table.elem_type in (2, 3):
            last *= 8 // attributes["bits"].i if "bits" in attributes else 2
        elem_type = scales.elem_type if scales else table.elem_type
        return TensorType(elem_type, ids.rank + table.rank - 1, last)
    if first is None:
        return None
    if node.op_type == "Cast":
        return TensorType(attributes["to"].i, first.rank, first.last_dim)
    if node.op_type == "MatMulNBits":
        return TensorType(first.elem_type, first.rank, attributes["N"].i)
    if node.op_type == "MatMul" and node.input[1] in weights:
        return TensorType(first.elem_type, first.rank, weights[node.input[1]].dims[-1])
    if node.op_type in _LIKE_FIRST_INPUT:
        return first
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        return _broadcast(first, types.get(node.input[1]))
    return None


def _broadcast(one: TensorType, other: TensorType | None) -> TensorType | None:
    if other is None or one.rank is None or other.rank is None or one.last_dim is None or other.last_dim is None:
        return None
    return TensorType(one.elem_type, max(one.rank, other.rank), max(one.last_dim, other.last_dim))
