"""A graph whose corrected products have lost their corrections, and all that only made the means for them (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge_node.runtime import onnx_messages as onnx
from edge_node.runtime.graph_writer import external_tensor
from edge_node.runtime.packed_corrections.graph_view import GraphView, Node, Weights
from edge_node.runtime.packed_corrections.products import Matrix, Product
from edge_node.runtime.protobuf import Field, bytes_field, copied, fields, varint_field

_NODE_FIELD, _INITIALIZER_FIELD, _GRAPH_FIELD = 1, 5, 7


class Stored(NamedTuple):
    """Codes and scales of a matrix without those of means, in files beside the graph."""

    codes: Weights
    scales: Weights


def without_means(graph: GraphView, products: Sequence[Product], stored: Mapping[Matrix, Stored]) -> bytes:
    """The model in ONNX's format: these products multiply their inputs alone.

    Weights that nothing reads any more are left out; those that are looked up in besides stay.
    """
    data = graph.data
    names = {
        matrix: (b"packed %d codes" % number, b"packed %d scales" % number) for number, matrix in enumerate(stored)
    }
    by_node = {product.node: product for product in products}
    inputs = {product.node: [product.x, *names[product.matrix]] for product in products}
    parts = [
        copied(data, field)
        for field in fields(data, *graph.model[onnx.GRAPH][0])
        if field[0] not in (onnx.NODE, onnx.INITIALIZER)
    ]
    read = set(graph.output_names())
    for number in graph.needed(inputs):
        node = graph.nodes[number]
        read.update(inputs.get(number, node.inputs))
        changed = number in by_node
        content = _changed(data, node, inputs[number], by_node[number].matrix) if changed else data[slice(*node.place)]
        parts.append(bytes_field(_NODE_FIELD, content))
    for name, (begin, stop) in graph.initializers.items():
        if name in read:
            parts.append(bytes_field(_INITIALIZER_FIELD, data[begin:stop]))
    for matrix, places in stored.items():
        parts += [bytes_field(_INITIALIZER_FIELD, _tensor(*pair)) for pair in zip(names[matrix], places, strict=True)]
    content = b"".join(parts)
    return b"".join(
        bytes_field(_GRAPH_FIELD, content) if field[0] == onnx.GRAPH else copied(data, field)
        for field in fields(data, 0, len(data))
    )


def _changed(data: bytes, node: Node, inputs: Sequence[bytes], matrix: Matrix) -> bytes:
    """The node of a product, as it multiplies its inputs alone."""
    parts = [bytes_field(1, name) for name in inputs]
    for field in fields(data, *node.place):
        if field[0] == onnx.ATTRIBUTE and _name_of(data, field) == b"K":
            parts.append(bytes_field(5, _number_attribute(data, field, matrix.blocks * matrix.block)))
        elif field[0] != onnx.NODE_INPUT:
            parts.append(copied(data, field))
    return b"".join(parts)


def _name_of(data: bytes, attribute: Field) -> bytes:
    _, begin, stop = attribute
    return onnx.text(data, onnx.read(onnx.ATTRIBUTE_KIND, data, begin, stop), onnx.ATTRIBUTE_NAME)


def _number_attribute(data: bytes, attribute: Field, value: int) -> bytes:
    """An attribute with another number."""
    _, begin, stop = attribute
    number = onnx.ATTRIBUTE_INT
    return b"".join(
        varint_field(number, value) if field[0] >> 3 == number else copied(data, field)
        for field in fields(data, begin, stop)
    )


def _tensor(name: bytes, weights: Weights) -> bytes:
    place = (weights.blob, weights.offset, weights.size_bytes)
    return external_tensor(name.decode(), weights.elem_type, weights.shape, *place)
