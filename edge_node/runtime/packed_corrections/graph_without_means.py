"""A graph whose corrected products have lost their corrections, and all that only made the means for them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edge_node.runtime import onnx_messages as onnx
from edge_node.runtime.packed_corrections.graph_view import GraphView, Node, Weights
from edge_node.runtime.packed_corrections.products import Product
from edge_node.runtime.protobuf import Field, bytes_field, copied, fields, varint_field

_NODE_FIELD, _INITIALIZER_FIELD, _GRAPH_FIELD = 1, 5, 7
_EXTERNAL = 1


class Stored(NamedTuple):
    """Codes and scales of a product without those of means, in a file beside the graph."""

    codes: Weights
    scales: Weights


def without_means(graph: GraphView, stored: Mapping[Product, Stored]) -> bytes:
    """The model in ONNX's format: these products multiply their inputs alone.

    Weights that nothing reads any more are left out; those that are looked up in besides stay.
    """
    data = graph.data
    products = {product.node: product for product in stored}
    changed = {number: _inputs(product) for number, product in products.items()}
    kept, read = _kept(graph, changed)
    parts = []
    for key, begin, stop in fields(data, *graph.model[onnx.GRAPH][0]):
        if key not in (onnx.NODE, onnx.INITIALIZER):
            parts.append(copied(data, (key, begin, stop)))
    for number in kept:
        node = graph.nodes[number]
        content = _changed(data, node, products[number]) if number in products else data[slice(*node.place)]
        parts.append(bytes_field(_NODE_FIELD, content))
    for name, (begin, stop) in graph.initializers.items():
        if name in read:
            parts.append(bytes_field(_INITIALIZER_FIELD, data[begin:stop]))
    for product, place in stored.items():
        names = _names(product)
        parts += [bytes_field(_INITIALIZER_FIELD, _tensor(*pair)) for pair in zip(names, place, strict=True)]
    made = []
    for key, begin, stop in fields(data, 0, len(data)):
        is_graph = key == onnx.GRAPH
        made.append(bytes_field(_GRAPH_FIELD, b"".join(parts)) if is_graph else copied(data, (key, begin, stop)))
    return b"".join(made)


def _names(product: Product) -> tuple[bytes, bytes]:
    name = b"product %d" % product.node
    return name + b" codes", name + b" scales"


def _inputs(product: Product) -> list[bytes]:
    return [product.x, *_names(product)]


def _kept(graph: GraphView, changed: Mapping[int, list[bytes]]) -> tuple[list[int], set[bytes]]:
    """The numbers of nodes that the outputs still need, in their order, and the names that these nodes read."""
    read = set(_output_names(graph))
    kept = []
    for number in reversed(range(len(graph.nodes))):
        node = graph.nodes[number]
        if read.intersection(node.outputs):
            kept.append(number)
            read.update(changed.get(number, node.inputs))
    return kept[::-1], read


def _output_names(graph: GraphView) -> Iterable[bytes]:
    for place in graph.graph.get(onnx.OUTPUT, ()):
        for key, start, stop in fields(graph.data, *place):
            if key == onnx.VALUE_NAME:
                yield graph.data[start:stop]


def _changed(data: bytes, node: Node, product: Product) -> bytes:
    """The node of a product, as it multiplies its inputs alone."""
    inputs = _inputs(product)
    columns = product.blocks * product.block
    parts = [bytes_field(1, name) for name in inputs]
    for field in fields(data, *node.place):
        if field[0] == onnx.ATTRIBUTE and _name_of(data, field) == b"K":
            parts.append(bytes_field(5, _number_attribute(data, field, columns)))
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
    """A tensor whose values are in a file."""
    length = weights.size_bytes
    entries = {b"location": weights.blob.encode(), b"offset": b"%d" % weights.offset, b"length": b"%d" % length}
    dims = b"".join(varint_field(1, size) for size in weights.shape)
    external = b"".join(bytes_field(13, bytes_field(1, key) + bytes_field(2, text)) for key, text in entries.items())
    return dims + varint_field(2, weights.elem_type) + bytes_field(8, name) + external + varint_field(14, _EXTERNAL)
