"""Rows of a matrix in blocks, by index: embeddings of tokens, and the head's rows of the likely ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.nodes import INT32, NodeMaker
from orchestrator.model.quantise.stored import StoredMatrix
from orchestrator.model.quantise.weight_file import Floats

if TYPE_CHECKING:
    from onnx import NodeProto


def look_up(matrix: StoredMatrix, ids: str, y: str) -> list[NodeProto]:
    """Nodes that make rows ``y`` [..., K] of indices [...]."""
    maker = NodeMaker(y)
    rows(maker, matrix, ids)
    return maker.rename(y)


def rows(maker: NodeMaker, matrix: StoredMatrix, ids: str) -> str:
    """Append what makes rows [..., K] of indices [...]; returns their name."""
    upper = maker.make("Gather", [matrix.upper, ids], axis=0)
    scales = _of_blocks(maker, matrix.scales, ids)
    if matrix.means:
        upper, scales = (_without_means(maker, values, matrix) for values in (upper, scales))
    codes = _unpacked(maker, upper, matrix.bits - matrix.lower_bits, matrix.form.block)
    zero = 1 << matrix.bits - 1
    if matrix.lower is not None:
        lower = _unpacked(
            maker, maker.make("Gather", [matrix.lower, ids], axis=0), matrix.lower_bits, matrix.form.block
        )
        codes = maker.make("Mul", [codes, maker.constant(np.float32(1 << matrix.lower_bits))])
        codes = maker.make("Add", [codes, lower])
    values = maker.make("Sub", [codes, maker.constant(np.float32(zero))])
    values = maker.make("Mul", [values, scales])
    if matrix.corrections is not None:
        values = maker.make("Add", [values, _of_blocks(maker, matrix.corrections, ids)])
    shape = maker.make("Concat", [maker.make("Shape", [ids]), maker.indices(matrix.columns)], axis=0)
    return maker.make("Reshape", [values, shape])


def _unpacked(maker: NodeMaker, packed: str, bits: int, block: int) -> str:
    """Codes [..., blocks, block] float32 of bytes [..., blocks, block * bits / 8]: each byte's are looked up."""
    table = np.arange(256)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1
    codes = maker.make("Gather", [maker.constant(table.astype(np.float32)), maker.make("Cast", [packed], to=INT32)])
    outer = maker.make("Shape", [codes], start=0, end=-2)
    return maker.make("Reshape", [codes, maker.make("Concat", [outer, maker.indices(block)], axis=0)])


def _without_means(maker: NodeMaker, values: str, matrix: StoredMatrix) -> str:
    """What belongs to the blocks of the matrix, of values [..., blocks + mean_blocks, n]."""
    return maker.make("Slice", [values, maker.indices(0), maker.indices(matrix.blocks), maker.indices(-2)])


def _of_blocks(maker: NodeMaker, values: Floats, ids: str) -> str:
    """One value of each block, [..., blocks, 1] float32."""
    wide = maker.widened(values, maker.make("Gather", [values.name, ids], axis=0))
    return maker.make("Unsqueeze", [wide, maker.indices(-1)])
