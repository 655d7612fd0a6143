"""Products whose blocks have corrections: where a graph has them, and how (pure).

A conversion gives a block's correction the form of weights of a further input, the mean of the block's inputs, once or
in several copies of the means (`orchestrator.model.quantise.stored` makes them). In the graph that is

    Concat(x, means, .., means)     means = ReduceMean(Reshape(source, [0, 0, -1, block])), those of all copies but the
                                    last with zeros behind (Pad); x is ``source``, or a number times that
    MatMulNBits(.., codes, scales)  the weights of the means behind those of ``x``

Graphs come from others: what has any other form is left as it is, and nothing is taken for granted of its sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edge_node.runtime.graph_writer import FLOAT, FLOAT16, UINT8
from edge_node.runtime.packed_corrections.graph_view import GraphView, Node, Weights

EIGHT_BIT_INPUTS = 4
"""The accuracy level of products with inputs in eight bits, whose kernels add up a block's inputs anyway."""
PANEL = 16
"""Rows whose sums stand side by side in packed weights."""
BLOCKS = (16, 32, 64, 128, 256)
"""Lengths of blocks that kernels know."""
BITS = (4, 8)
_MOST_COPIES = 4


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
class Matrix:
    """Weights in blocks with corrections.

    Attributes:
        codes: [rows, blocks and those of means, bytes], uint8.
        scales: as many as there are blocks, in one or two dimensions.
        blocks: of a row, without those of means.
    """

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


@dataclass(frozen=True)
class Product:
    """A MatMulNBits, by its number among the graph's nodes, of inputs ``x``, the means left out, and a matrix."""

    node: int
    x: bytes
    matrix: Matrix


def corrected_products(graph: GraphView) -> Iterator[Product]:
    """Those with inputs in eight bits that the outputs need."""
    means: dict[bytes, Means | None] = {}
    for number in graph.needed():
        node = graph.nodes[number]
        if node.operator != b"MatMulNBits" or graph.integer(node, b"accuracy_level") != EIGHT_BIT_INPUTS:
            continue
        joined = graph.producer(node.inputs[0], b"Concat") if len(node.inputs) == 3 else None
        block = graph.integer(node, b"block_size")
        if joined is None or block not in BLOCKS:
            continue
        key = b"%d %b" % (block, joined.outputs[0])
        if key not in means:
            means[key] = _means(graph, joined, block)
        matrix = _matrix(graph, node, means[key])
        if matrix is not None:
            yield Product(number, joined.inputs[0], matrix)


def _matrix(graph: GraphView, node: Node, means: Means | None) -> Matrix | None:
    codes, scales = graph.weights(node.inputs[1]), _scales(graph, node.inputs[2])
    block, bits, columns = (graph.integer(node, name) for name in (b"block_size", b"bits", b"K"))
    if means is None or codes is None or scales is None or codes.elem_type != UINT8 or bits not in BITS:
        return None
    # K with all means is K + copies * (K / block + fill) - fill.
    blocks, rest = divmod(columns + means.fill * (1 - means.copies), block + means.copies)
    shape = graph.integer(node, b"N"), -(-columns // block), block * bits // 8
    # Of one block a row's sums have the order that they have in packed weights, and less than a panel has no landmark.
    if rest or blocks < 2 or shape[0] < PANEL or codes.shape != shape:
        return None
    if math.prod(scales.weights.shape) != shape[0] * shape[1]:
        return None
    return Matrix(bits, block, blocks, codes, scales, means)


def _means(graph: GraphView, joined: Node, block: int) -> Means | None:
    x, *filled = joined.inputs[:-1] or [b""]
    last = joined.inputs[-1]
    if len(joined.inputs) < 2 or len(filled) >= _MOST_COPIES or graph.integer(joined, b"axis") != -1:
        return None
    fill = _fill(graph, filled[0], last) if filled else 0
    reduced = graph.producer(last, b"ReduceMean")
    axes = graph.constant(reduced.inputs[1]) if reduced and len(reduced.inputs) == 2 else None
    if (
        reduced is None
        or axes != [-1]
        or graph.integer(reduced, b"keepdims") != 0
        or b"keepdims" not in reduced.attributes
    ):
        return None
    blocks = graph.producer(reduced.inputs[0], b"Reshape")
    if blocks is None or len(blocks.inputs) != 2 or graph.constant(blocks.inputs[1]) != [0, 0, -1, block]:
        return None
    factor = _factor(graph, x, blocks.inputs[0])
    if fill not in range(block) or not factor or any(name != filled[0] for name in filled):
        return None
    return Means(len(filled) + 1, fill, factor)


def _fill(graph: GraphView, filled: bytes, means: bytes) -> int:
    """How many zeros are behind a copy of means; -1 if it is something else."""
    if filled == means:
        return 0
    pad = graph.producer(filled, b"Pad")
    if pad is None or len(pad.inputs) != 2 or pad.inputs[0] != means or pad.attributes:
        return -1
    pads = graph.constant(pad.inputs[1]) or [-1]
    return -1 if any(pads[:-1]) or len(pads) != 6 else int(pads[-1])


def _factor(graph: GraphView, x: bytes, source: bytes) -> float | None:
    """What ``x`` is of ``source``; None if it is anything but a multiple."""
    if x == source:
        return 1.0
    product = graph.producer(x, b"Mul")
    if product is None or len(product.inputs) != 2 or product.inputs[0] != source:
        return None
    return _number(graph, product.inputs[1])


def _number(graph: GraphView, name: bytes) -> float | None:
    """A constant that is one finite number other than 0."""
    constant = graph.constant(name)
    return constant[0] if constant and len(constant) == 1 and math.isfinite(constant[0]) and constant[0] else None


def _scales(graph: GraphView, name: bytes) -> Scales | None:
    """Scales that are in a blob, or made of such by a Cast and the product with a number."""
    factor: float | None = 1.0
    product = graph.producer(name, b"Mul")
    if product is not None:
        name, factor = product.inputs[0], _number(graph, product.inputs[-1])
    cast = graph.producer(name, b"Cast")
    if cast is not None and graph.integer(cast, b"to") != FLOAT:
        return None
    weights = graph.weights(cast.inputs[0] if cast else name)
    if factor is None or weights is None or weights.elem_type not in (FLOAT, FLOAT16):
        return None
    return Scales(weights, factor)
