"""A segment's graph as nodes, weights and constants by name, read from ONNX's format (pure)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from edge_node.runtime import onnx_messages as onnx
from edge_node.runtime.graph_tensors import check_tensor, external_place, numbers, repeated
from edge_node.runtime.graph_writer import FLOAT, FLOAT16, UINT8
from edge_node.runtime.onnx_messages import Found, Place
from edge_node.runtime.protobuf import FIXED32, fields, fixed, tag

ELEMENT_BYTES = {FLOAT: 4, UINT8: 1, FLOAT16: 2}
_MOST_VALUES = 16
"""Of a constant that is read."""
_ENDLESS = 1 << 62
"""Bytes of a blob: it was looked at already whether it has what the graph reads."""
_FLOAT_FIELD = tag(onnx.ATTRIBUTE_FLOAT, FIXED32)


class Node(NamedTuple):
    """A node, and where it is in the file."""

    operator: bytes
    inputs: list[bytes]
    outputs: list[bytes]
    attributes: dict[bytes, Found]
    place: Place


class Weights(NamedTuple):
    """An initializer whose values are in a blob."""

    blob: str
    offset: int
    shape: tuple[int, ...]
    elem_type: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * ELEMENT_BYTES[self.elem_type]


class GraphView:
    """A graph that was checked (`edge_node.runtime.graph_check`)."""

    def __init__(self, data: bytes) -> None:
        """Read the nodes; the rest is read when it is asked for."""
        self.data = data
        self.model = onnx.read(onnx.MODEL, data, 0, len(data))
        self.graph = onnx.read(onnx.GRAPH_KIND, data, *self.model[onnx.GRAPH][0])
        self.nodes = [self._node(place) for place in self.graph.get(onnx.NODE, ())]
        self.producers = {output: node for node in self.nodes for output in node.outputs}

    def _node(self, place: Place) -> Node:
        found = onnx.read(onnx.NODE_KIND, self.data, *place)
        attributes = {}
        for where in found.get(onnx.ATTRIBUTE, ()):
            attribute = onnx.read(onnx.ATTRIBUTE_KIND, self.data, *where)
            attributes[onnx.text(self.data, attribute, onnx.ATTRIBUTE_NAME)] = attribute
        names = ([self.data[a:b] for a, b in found.get(key, ())] for key in (onnx.NODE_INPUT, onnx.NODE_OUTPUT))
        inputs, outputs = names
        return Node(onnx.text(self.data, found, onnx.OPERATOR), inputs, outputs, attributes, place)

    @functools.cached_property
    def initializers(self) -> dict[bytes, Place]:
        """Where the initializers are, by name."""
        found = {}
        for place in self.graph.get(onnx.INITIALIZER, ()):
            for key, start, stop in fields(self.data, *place):
                if key == onnx.TENSOR_NAME:
                    found[self.data[start:stop]] = place
        return found

    def output_names(self) -> list[bytes]:
        """Of the graph."""
        return [
            self.data[start:stop]
            for place in self.graph.get(onnx.OUTPUT, ())
            for key, start, stop in fields(self.data, *place)
            if key == onnx.VALUE_NAME
        ]

    def needed(self, inputs: Mapping[int, list[bytes]] = MappingProxyType({})) -> list[int]:
        """The numbers of nodes that the outputs need, in their order; ``inputs``: other ones that some nodes have."""
        read = set(self.output_names())
        found = []
        for number in reversed(range(len(self.nodes))):
            node = self.nodes[number]
            if not read.isdisjoint(node.outputs):
                found.append(number)
                read.update(inputs.get(number, node.inputs))
        return found[::-1]

    def producer(self, name: bytes, operator: bytes) -> Node | None:
        """The node of this kind that makes a value; None if another makes it, or none."""
        node = self.producers.get(name)
        return node if node is not None and node.operator == operator else None

    def integer(self, node: Node, name: bytes) -> int:
        """An attribute that is a number; 0 where it is not there."""
        found = node.attributes.get(name, {})
        values = repeated(self.data, found, onnx.ATTRIBUTE_INT)
        return values[0] if values else 0

    def weights(self, name: bytes) -> Weights | None:
        """An initializer that is in a blob and has bytes, halves or floats; None of any other value."""
        place = self.initializers.get(name)
        if place is None:
            return None
        tensor = check_tensor(self.data, place, lambda _: _ENDLESS)
        if not tensor.is_external or tensor.elem_type not in ELEMENT_BYTES:
            return None
        blob, offset = external_place(self.data, tensor.found, name, tensor.size_bytes)
        return Weights(blob, offset, tuple(repeated(self.data, tensor.found, 1)), tensor.elem_type)

    def constant(self, name: bytes) -> list[float] | None:
        """The few numbers that a Constant gives; None of any other value."""
        node = self.producer(name, b"Constant")
        if node is None or len(node.attributes) != 1:
            return None
        (found,) = node.attributes.values()
        if onnx.ATTRIBUTE_TENSOR in found:
            tensor = check_tensor(self.data, found[onnx.ATTRIBUTE_TENSOR][0], lambda _: None)
            return numbers(self.data, tensor, _MOST_VALUES)
        floats = [value for place in found.get(_FLOAT_FIELD, ()) for value in fixed(self.data, *place, "<f")]
        return floats or None
