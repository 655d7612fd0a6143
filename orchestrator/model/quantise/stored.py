"""A matrix in blocks as weights of a graph.

**Means.** A block that is not centred on zero adds its correction times the sum of its inputs. Means of blocks are
further inputs, and corrections, times a block's length, further weights behind those of the matrix; where those have
four bits, twice: corrections, and what rounding them left, in blocks of their own. To get there, the means are filled
up with zeros to whole blocks, or repeated once more where that takes no more blocks.

**Planes.** Codes of five to eight bits may be kept in two planes, the upper four bits and the rest: that is how a head
is multiplied in two passes (`orchestrator.model.quantise.head`) and looked up all the same, and how five bits take no
more than five.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.blocks import BlockMatrix, Form, pack_codes, row_pieces
from orchestrator.model.quantise.fit import fitted
from orchestrator.model.quantise.weight_file import Floats, WeightFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

UPPER_BITS = 4
STRIDE = 8 // UPPER_BITS
"""Codes of an upper plane in a byte; those of a block that come from the same bits are so many columns apart."""
_MOST_COPIES = 3
"""To copy more is slower than to fill up with zeros."""


@dataclass(frozen=True)
class Means:
    """Means of blocks as inputs: ``copies`` of them, with so many zeros (``fill``) behind all but the last."""

    copies: int
    fill: int

    def columns(self, blocks: int) -> int:
        """How many inputs they are, where there are so many means."""
        return self.copies * (blocks + self.fill) - self.fill


@dataclass(frozen=True)
class StoredMatrix:
    """Names and shapes of a matrix' weights.

    Attributes:
        form: of its blocks.
        bits: of a code, around ``1 << bits - 1`` as zero.
        rows, columns: N, K.
        upper: [N, blocks + mean_blocks, bytes]: codes, or their upper four bits if there is a ``lower`` plane; then the
            weights of means.
        lower: [N, blocks, bytes]: the other bits, packed so that they are taken out in the order of the upper ones;
            None where there are none.
        scales: [N, blocks + mean_blocks]: of the codes, then of the weights of means.
        means: how the means of the inputs' blocks are inputs themselves; None if they are not.
        corrections: [N, blocks], of a matrix whose rows are looked up; None without.
    """

    form: Form
    bits: int
    rows: int
    columns: int
    upper: str
    lower: str | None
    scales: Floats
    means: Means | None
    corrections: Floats | None

    @property
    def blocks(self) -> int:
        return self.columns // self.form.block

    @property
    def mean_columns(self) -> int:
        """Inputs behind those of the matrix."""
        return self.means.columns(self.blocks) if self.means else 0

    @property
    def zero(self) -> int:
        """The code that stands for zero, but for a correction."""
        return 1 << self.bits - 1

    @property
    def stride(self) -> int:
        """How many columns apart the codes of a block are that come one after the other."""
        return 8 // (self.bits - self.lower_bits)

    @property
    def lower_bits(self) -> int:
        return self.bits - UPPER_BITS if self.lower else 0


def store(
    matrix: BlockMatrix, name: str, file: WeightFile, *, looked_up: bool, multiplied: bool
) -> StoredMatrix:  # fmt: skip
    """Write a matrix with its codes in one plane."""
    weights, means = None, None
    if matrix.corrections is not None:
        weights, means = _weights_of_means(matrix.corrections, matrix.form)
    pieces = row_pieces(matrix.codes.shape)
    upper = file.add_rows(f"{name}.codes", (_with_means(matrix.packed(piece), weights, piece) for piece in pieces))
    return _stored(
        matrix, matrix.form.bits, name, upper, None, weights, means, file, looked_up=looked_up, multiplied=multiplied
    )


def store_in_planes(matrix: BlockMatrix, name: str, file: WeightFile, *, multiplied: bool) -> StoredMatrix:
    """Write a matrix of eight bits with its codes in two planes; of codes that differ in fewer bits, with those.

    Args:
        multiplied: in two passes, and not only looked up.
    """
    bits = needed_bits(matrix)
    lower_bits = bits - UPPER_BITS
    less = np.uint8(matrix.form.zero - (1 << bits - 1))
    weights, means = None, None
    if multiplied:
        missing = matrix.scales * np.float32(((1 << lower_bits) - 1) / 2)
        if matrix.corrections is not None:
            missing += matrix.corrections
        weights, means = _once(missing, Form(UPPER_BITS, matrix.form.block, corrected=False))

    def lower(piece: slice) -> NDArray[np.uint8]:
        return _packed_for_stride(matrix.codes_of(piece) - less & np.uint8((1 << lower_bits) - 1), lower_bits)

    def upper(piece: slice) -> NDArray[np.uint8]:
        codes = pack_codes(matrix.codes_of(piece) - less >> np.uint8(lower_bits), UPPER_BITS)
        return _with_means(codes, weights, piece)

    pieces = list(row_pieces(matrix.codes.shape))
    lower_name = file.add_rows(f"{name}.lower", map(lower, pieces))
    upper_name = file.add_rows(f"{name}.upper", map(upper, pieces))
    return _stored(
        matrix, bits, name, upper_name, lower_name, weights, means, file, looked_up=True, multiplied=multiplied
    )


def _with_means(packed: NDArray[np.uint8], weights: BlockMatrix | None, rows: slice) -> NDArray[np.uint8]:
    """Packed codes of some rows, those of the weights of means behind them."""
    return packed if weights is None else np.concatenate([packed, weights.packed(rows)], axis=1)


def _packed_for_stride(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Lower bits [N, blocks, block] in bytes: taken out of these, they come ``STRIDE`` columns apart as well."""
    strided = np.concatenate([codes[..., place::STRIDE] for place in range(STRIDE)], axis=-1)
    each = 8 // bits
    by_place = strided.reshape(*strided.shape[:-1], each, -1)
    return pack_codes(np.ascontiguousarray(by_place.swapaxes(-1, -2)).reshape(strided.shape), bits)


def needed_bits(matrix: BlockMatrix) -> int:
    """In how many bits, more than four, codes around zero can be told apart; two planes hold 5, 6 or 8."""
    below, above = matrix.form.zero - int(matrix.codes.min()), int(matrix.codes.max()) - matrix.form.zero
    return next(bits for bits in (5, 6, 8) if below <= 1 << bits - 1 and above < 1 << bits - 1)


def _stored(
    matrix: BlockMatrix,
    bits: int,
    name: str,
    upper: str,
    lower: str | None,
    weights: BlockMatrix | None,
    means: Means | None,
    file: WeightFile,
    *,
    looked_up: bool,
    multiplied: bool,
) -> StoredMatrix:
    scales = matrix.scales if weights is None else np.concatenate([matrix.scales, weights.scales], axis=1)
    # Where four bits are multiplied, scales are so large a part that floats in memory beside halves cost too much.
    is_floats = multiplied and (bits == UPPER_BITS or lower is not None)
    add = file.add_floats if is_floats else file.add_halves
    return StoredMatrix(
        form=matrix.form,
        bits=bits,
        rows=matrix.rows,
        columns=matrix.columns,
        upper=upper,
        lower=lower,
        scales=add(f"{name}.scales", scales),
        means=means,
        corrections=(
            file.add_halves(f"{name}.corrections", matrix.corrections)
            if looked_up and matrix.corrections is not None
            else None
        ),
    )


def _weights_of_means(corrections: NDArray[np.float32], form: Form) -> tuple[BlockMatrix, Means]:
    """Weights of means, from corrections [N, blocks], and how the means are inputs.

    In four bits corrections are rounded too coarsely. What is missing then has weights of its own: for each mean those
    of its first copy that is behind the blocks of the first weights.
    """
    plain = Form(form.bits, form.block, corrected=False)
    first, once = _once(corrections, plain)
    if form.bits > UPPER_BITS:
        return first, once
    blocks = corrections.shape[1]
    means = _twice(blocks, form.block)
    stride = blocks + means.fill
    copy = -(-(first.columns - np.arange(blocks)) // stride)
    left = np.zeros((len(corrections), means.columns(blocks) - first.columns), np.float32)
    missing = corrections * np.float32(form.block) - first.dequantised()[:, :blocks]
    left[:, copy * stride + np.arange(blocks) - first.columns] = missing
    second = _rounded(left, plain)
    codes = np.concatenate([first.codes, second.codes], axis=1)
    scales = np.concatenate([first.scales, second.scales], axis=1)
    return BlockMatrix(plain, codes, scales, None), means


def _once(corrections: NDArray[np.float32], form: Form) -> tuple[BlockMatrix, Means]:
    """Weights of means that are inputs once."""
    return _rounded(corrections * np.float32(form.block), form), Means(1, 0)


def _twice(blocks: int, block: int) -> Means:
    """The way that takes the fewest blocks to have all means once more behind the blocks that they begin in."""
    filled = -(-blocks // block) * block
    repeated, with_zeros = Means(-(-filled // blocks) + 1, 0), Means(2, filled - blocks)
    if repeated.copies > _MOST_COPIES:
        return with_zeros
    return min(repeated, with_zeros, key=lambda means: -(-means.columns(blocks) // block))


def _rounded(values: NDArray[np.float32], form: Form) -> BlockMatrix:
    """``values`` [N, n] in blocks, with columns of zeros behind, so that there are whole blocks."""
    spare = -values.shape[1] % form.block
    return fitted(np.pad(values, ((0, 0), (0, spare))), form)
