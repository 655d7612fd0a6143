"""The head of a large vocabulary in two passes.

It is a good part of the work of a step, and eight bits there matter to the text. So all tokens get the product with the
upper four bits of their codes, and then, the few that came out as the most likely, the one with all bits. Both read the
planes of one matrix, which may be the embeddings' too: nothing is kept twice.

The upper bits alone take every code for the least one that has them. On average that is short of half a step of the
upper bits times the sum of the input's block; for the blocks' means the upper plane has weights behind its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.look_up import strided_rows
from orchestrator.model.quantise.matmul import block_means, multiply_by_codes
from orchestrator.model.quantise.nodes import NodeMaker
from orchestrator.model.quantise.stored import UPPER_BITS, StoredMatrix

if TYPE_CHECKING:
    from onnx import NodeProto

SHORTLIST = 64
"""So many tokens get the second pass."""


def multiply_in_two_passes(x: str, matrix: StoredMatrix, y: str) -> list[NodeProto]:
    """Nodes that make logits ``y`` [B, n, V] of ``x`` [B, n, K] and a matrix in planes with weights for means."""
    maker = NodeMaker(y)
    stretched = maker.make("Mul", [x, maker.constant(np.float32(1 << matrix.lower_bits))])
    both = maker.make("Concat", [stretched, block_means(x, matrix.form.block, maker)], axis=-1)
    rough = multiply_by_codes(maker, both, matrix, UPPER_BITS)
    best = maker.make("TopK", [rough, maker.indices(SHORTLIST)], outputs=2, sorted=0)
    weights = maker.make("Reshape", [strided_rows(maker, matrix, best), maker.indices(0, 0, 0, matrix.columns)])
    product = maker.make("MatMul", [weights, _strided_column(maker, x, matrix)])
    fine = maker.make("Squeeze", [product, maker.indices(-1)])
    maker.make("ScatterElements", [rough, best, fine], axis=-1)
    return maker.rename(y)


def _strided_column(maker: NodeMaker, x: str, matrix: StoredMatrix) -> str:
    """``x`` [B, n, K] as [B, n, K, 1], in the order that rows come in."""
    stride = matrix.stride
    blocks = maker.make("Reshape", [x, maker.indices(0, 0, matrix.blocks, matrix.form.block // stride, stride)])
    strided = maker.make("Transpose", [blocks], perm=[0, 1, 2, 4, 3])
    return maker.make("Reshape", [strided, maker.indices(0, 0, matrix.columns, 1)])
