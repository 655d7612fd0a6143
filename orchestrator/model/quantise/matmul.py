"""Products with a matrix in blocks, as nodes of a graph.

``x @ (scale * (code - zero) + correction)`` is MatMulNBits of ``x`` and of the means of its blocks, side by side
(`orchestrator.model.quantise.stored`). What is made of ``x`` is shared by all matrices that read it. Scales that are
halves on disk are widened by ONNX Runtime once, when it opens the graph, since nothing else changes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.precision import PROFILES
from orchestrator.model.quantise.nodes import CONTRIB, NodeMaker
from orchestrator.model.quantise.outliers import Outliers
from orchestrator.model.quantise.stored import Means, StoredMatrix
from orchestrator.model.quantise.weight_file import Floats

if TYPE_CHECKING:
    from onnx import NodeProto


class Inputs:
    """Makes of inputs what several matrices read: with the means of blocks, and channels that are kept out."""

    def __init__(self, outliers: Outliers) -> None:
        self._outliers = outliers
        self._made: dict[tuple[str, int, Means], str] = {}
        self._gathered: dict[str, str] = {}

    def with_means(self, x: str, matrix: StoredMatrix, maker: NodeMaker) -> str:
        """``x`` [B, S, K] with as many means behind as the matrix has columns for; its name."""
        if not matrix.means:
            return x
        key = x, matrix.form.block, matrix.means
        if key not in self._made:
            means = filled = block_means(x, matrix.form.block, maker)
            if matrix.means.fill:
                filled = maker.make("Pad", [means, maker.indices(0, 0, 0, 0, 0, matrix.means.fill)])
            self._made[key] = maker.make("Concat", [x, *[filled] * (matrix.means.copies - 1), means], axis=-1)
        return self._made[key]

    def outliers_of(self, x: str, maker: NodeMaker) -> str:
        """The channels of ``x`` that are kept out, [B, S, channels]; their name."""
        if x not in self._gathered:
            self._gathered[x] = maker.make("Gather", [x, maker.constant(self._outliers[x])], axis=-1)
        return self._gathered[x]


def block_means(x: str, block: int, maker: NodeMaker) -> str:
    """Append what averages ``x`` [B, S, K] over blocks; returns the name of the means [B, S, K / block]."""
    blocks = maker.make("Reshape", [x, maker.indices(0, 0, -1, block)])
    return maker.make("ReduceMean", [blocks, maker.indices(-1)], keepdims=0)


def multiply(x: str, matrix: StoredMatrix, y: str, inputs: Inputs, kept_out: Floats | None) -> list[NodeProto]:
    """Nodes that make ``y`` [B, S, N] of ``x`` [B, S, K] and a matrix in one plane.

    Args:
        kept_out: weights [channels, N] of the channels of ``x`` that are kept out.
    """
    maker = NodeMaker(y)
    product = multiply_by_codes(maker, inputs.with_means(x, matrix, maker), matrix, matrix.form.bits)
    if kept_out is not None:
        weights = maker.widened(kept_out)
        maker.make("Add", [product, maker.make("MatMul", [inputs.outliers_of(x, maker), weights])])
    return maker.rename(y)


def multiply_by_codes(maker: NodeMaker, x: str, matrix: StoredMatrix, bits: int) -> str:
    """Append the MatMulNBits of ``x``, means included, with codes of so many bits; returns its output."""
    return maker.make(
        "MatMulNBits",
        [x, matrix.upper, maker.widened(matrix.scales)],
        domain=CONTRIB,
        K=matrix.columns + matrix.mean_columns,
        N=matrix.rows,
        bits=bits,
        block_size=matrix.form.block,
        accuracy_level=PROFILES["fast"].accuracy_level,
    )
