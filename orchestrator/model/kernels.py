"""Which kernels a segment's graph has ONNX Runtime use: told to nodes in the graph, so that they try each only once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from orchestrator.model.graph import PAST_NAME
from schemas.segment_tensors import KERNELS, KERNELS_BETWEEN

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_COMPUTES_NOTHING = {"Constant", "ConstantOfShape", "Shape"}
_DIGITS = 12


def tell_kernels(model: ModelProto) -> None:
    """Write the names of a graph's kernels into its metadata.

    A name stands for an operator, its attributes, and the types and sizes of what does not change from run to run: two
    nodes of one name are computed by the same code, whatever segment they are in.
    """
    of_functions = b"".join(function.SerializeToString(deterministic=True) for function in model.functions)
    entry = model.metadata_props.add()
    entry.key, entry.value = KERNELS, KERNELS_BETWEEN.join(_names(model.graph, of_functions))


def _names(graph: GraphProto, of_functions: bytes) -> list[str]:
    sizes = {tensor.name: f"{tensor.data_type} {tuple(tensor.dims)}" for tensor in graph.initializer}
    for value in graph.input:
        if PAST_NAME.match(value.name):  # a hidden state may come from another segment, or from the block before
            tensor = value.type.tensor_type
            sizes[value.name] = f"{tensor.elem_type} {tuple(dim.dim_value for dim in tensor.shape.dim)}"
    return sorted({_name(node, sizes, of_functions) for node in graph.node if node.op_type not in _COMPUTES_NOTHING})


def _name(node: NodeProto, sizes: dict[str, str], of_functions: bytes) -> str:
    known = hashlib.sha256(of_functions)
    known.update(f"{node.domain} {node.op_type}".encode())
    for attribute in sorted(node.attribute, key=lambda one: one.name):
        known.update(attribute.SerializeToString(deterministic=True))
    for name in node.input:
        known.update(f"|{sizes.get(name, '')}".encode())
    return known.hexdigest()[:_DIGITS]
