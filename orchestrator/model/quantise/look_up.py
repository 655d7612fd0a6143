"""Rows of a matrix in blocks, by index: embeddings of tokens, and the head's rows of the likely ones.

Codes are taken out of bytes all at once, first those in the lower bits of each byte, then those in the next: so they
come **strided**, in a block of 32 four-bit codes the even columns before the odd ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.nodes import FLOAT, NodeMaker
from orchestrator.model.quantise.stored import StoredMatrix
from orchestrator.model.quantise.weight_file import Floats

if TYPE_CHECKING:
    from onnx import NodeProto


def look_up(matrix: StoredMatrix, ids: str, y: str) -> list[NodeProto]:
    """Nodes that make rows ``y`` [B, S, K] of indices [B, S]."""
    maker = NodeMaker(y)
    places = maker.indices(0, 0, matrix.blocks, matrix.stride, matrix.form.block // matrix.stride)
    strided = maker.make("Reshape", [strided_rows(maker, matrix, ids), places])
    in_order = maker.make("Transpose", [strided], perm=[0, 1, 2, 4, 3])
    maker.make("Reshape", [in_order, maker.indices(0, 0, matrix.columns)])
    return maker.rename(y)


def strided_rows(maker: NodeMaker, matrix: StoredMatrix, ids: str) -> str:
    """Append what makes rows [..., blocks, block] of indices [...], strided; returns their name."""
    upper, scales = maker.make("Gather", [matrix.upper, ids], axis=0), _of_blocks(maker, matrix.scales, ids)
    if matrix.means:
        upper, scales = (_without_means(maker, values, matrix) for values in (upper, scales))
    codes = _unpacked(maker, upper, matrix.bits - matrix.lower_bits)
    if matrix.lower is not None:
        lower = _unpacked(maker, maker.make("Gather", [matrix.lower, ids], axis=0), matrix.lower_bits)
        codes = maker.make("BitwiseOr", [_shifted(maker, codes, matrix.lower_bits, "LEFT"), lower])
    centred = maker.make("Sub", [maker.make("Cast", [codes], to=FLOAT), maker.constant(np.float32(matrix.zero))])
    values = maker.make("Mul", [centred, scales])
    if matrix.corrections is not None:
        values = maker.make("Add", [values, _of_blocks(maker, matrix.corrections, ids)])
    return values


def _unpacked(maker: NodeMaker, packed: str, bits: int) -> str:
    """Codes [..., blocks, block] uint8 of bytes [..., blocks, block * bits / 8], those in the lower bits first."""
    if bits == 8:
        return packed
    pieces = []
    for place in range(0, 8, bits):
        piece = _shifted(maker, packed, place, "RIGHT") if place else packed
        if place + bits < 8:
            piece = maker.make("BitwiseAnd", [piece, maker.constant(np.uint8((1 << bits) - 1))])
        pieces.append(piece)
    return maker.make("Concat", pieces, axis=-1)


def _shifted(maker: NodeMaker, codes: str, bits: int, direction: str) -> str:
    return maker.make("BitShift", [codes, maker.constant(np.uint8(bits))], direction=direction)


def _without_means(maker: NodeMaker, values: str, matrix: StoredMatrix) -> str:
    """What belongs to the blocks of the matrix, of values [..., blocks + mean_blocks, n]."""
    return maker.make("Slice", [values, maker.indices(0), maker.indices(matrix.blocks), maker.indices(-2)])


def _of_blocks(maker: NodeMaker, values: Floats, ids: str) -> str:
    """One value of each block, [..., blocks, 1] float32."""
    wide = maker.widened(values, maker.make("Gather", [values.name, ids], axis=0))
    return maker.make("Unsqueeze", [wide, maker.indices(-1)])
