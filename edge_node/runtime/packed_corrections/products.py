"""Products whose blocks have corrections: where a graph has them, and how (pure).

A conversion gives a block's correction the form of weights of a further input, the mean of the block's inputs, once or
in several copies of the means (`orchestrator.model.quantise.stored` makes them). In the graph that is

    Concat(x, means, .., means)     means = ReduceMean(Reshape(source, [0, 0, -1, block])), those of all copies but the
                                    last with zeros behind (Pad); x is ``source``, or a number times that
    MatMulNBits(.., codes, scales)  the weights of the means behind those of ``x``
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edge_node.runtime.packed_corrections.graph_view import FLOAT, FLOAT16, UINT8, GraphView, Node, Weights

EIGHT_BIT_INPUTS = 4
"""The accuracy level of products with inputs in eight bits, whose kernels add up a block's inputs anyway."""


@dataclass(frozen=True)
class Means:
    """How the means of blocks are inputs: so many copies, with so many zeros (``fill``) behind all but the last, of a
    ``source`` that is 1 / ``factor`` of the other inputs."""

    copies: int
    fill: int
    factor: float


@dataclass(frozen=True)
class Scales:
    """Scales in a blob, and what they are multiplied with."""

    weights: Weights
    factor: float


@dataclass(frozen=True)
class Product:
    """A MatMulNBits with corrections.

    Attributes:
        node: its number among the graph's nodes.
        x: the name of its inputs without the means.
        codes: [rows, blocks and those of means, bytes], uint8.
        scales: as many as there are blocks, in one or two dimensions.
        blocks: of a row, without those of means.
    """

    node: int
    x: bytes
    bits: int
    block: int
    blocks: int
    codes: Weights
    scales: Scales
    means: Means

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    @property
    def zero(self) -> int:
        """The code that stands for zero, but for a correction."""
        return 1 << self.bits - 1


def corrected_products(graph: GraphView) -> Iterator[Product]:
    """Those with inputs in eight bits; what has any other form is left out."""
    for number, node in enumerate(graph.nodes):
        if node.operator == b"MatMulNBits" and graph.integer(node, b"accuracy_level") == EIGHT_BIT_INPUTS:
            product = _product(graph, number, node)
            if product is not None:
                yield product


def _product(graph: GraphView, number: int, node: Node) -> Product | None:
    joined = graph.producer(node.inputs[0], b"Concat")
    codes, scales = graph.weights(node.inputs[1]), _scales(graph, node.inputs[2])
    block, bits = graph.integer(node, b"block_size"), graph.integer(node, b"bits")
    if len(node.inputs) != 3 or joined is None or len(joined.inputs) < 2 or codes is None or scales is None:
        return None
    means = _means(graph, joined, block)
    if means is None or codes.elem_type != UINT8 or len(codes.shape) != 3 or bits not in (4, 8):
        return None
    columns = graph.integer(node, b"K")
    # K with all means is K + copies * (K / block + fill) - fill.
    blocks, rest = divmod(columns + means.fill * (1 - means.copies), block + means.copies)
    total = codes.shape[1]
    fits = rest == 0 and blocks > 0 and total == -(-columns // block) and codes.shape[2] == block * bits // 8
    if not fits or math.prod(scales.weights.shape) != codes.shape[0] * total:
        return None
    return Product(number, joined.inputs[0], bits, block, blocks, codes, scales, means)


def _means(graph: GraphView, joined: Node, block: int) -> Means | None:
    x, *filled, last = joined.inputs
    fill = 0
    if filled and filled != [last] * len(filled):
        pad = graph.producer(filled[0], b"Pad")
        pads = graph.constant(pad.inputs[1]) if pad and len(pad.inputs) == 2 else None
        if pad is None or pads is None or any(pads[:-1]) or pad.inputs[0] != last or filled != filled[:1] * len(filled):
            return None
        fill = int(pads[-1])
    reduced = graph.producer(last, b"ReduceMean")
    blocks = graph.producer(reduced.inputs[0], b"Reshape") if reduced else None
    shape = graph.constant(blocks.inputs[1]) if blocks else None
    if reduced is None or blocks is None or shape != [0, 0, -1, block]:
        return None
    axes = graph.constant(reduced.inputs[1]) if len(reduced.inputs) == 2 else None
    factor = _factor(graph, x, blocks.inputs[0])
    return Means(len(filled) + 1, fill, factor) if axes == [-1] and factor else None


def _factor(graph: GraphView, x: bytes, source: bytes) -> float | None:
    """What ``x`` is of ``source``; None if it is anything but a multiple."""
    if x == source:
        return 1.0
    product = graph.producer(x, b"Mul")
    constant = graph.constant(product.inputs[1]) if product and product.inputs[0] == source else None
    return constant[0] if constant and len(constant) == 1 else None


def _scales(graph: GraphView, name: bytes) -> Scales | None:
    """Scales that are in a blob, or made of such by a Cast and the product with a number."""
    factor = 1.0
    product = graph.producer(name, b"Mul")
    if product is not None:
        constant = graph.constant(product.inputs[1])
        if not constant or len(constant) != 1:
            return None
        name, factor = product.inputs[0], constant[0]
    cast = graph.producer(name, b"Cast")
    weights = graph.weights(cast.inputs[0] if cast else name)
    if weights is None or weights.elem_type not in (FLOAT, FLOAT16):
        return None
    return Scales(weights, factor)
