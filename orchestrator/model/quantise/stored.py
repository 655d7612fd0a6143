"""A matrix in blocks as weights of a graph.

**Blocks for sums.** A block that is not centred on zero adds its correction times the sum of its inputs. These sums are
further inputs, and corrections further weights behind those of the matrix: eight bits of a correction in one column, or
in two of four bits, for the sum and for a sixteenth of it. So a correction takes no operator, and few bytes.

**Planes.** Codes of five to eight bits may be kept in two planes, the upper four bits and the rest: that is how a head
is multiplied in two passes (`orchestrator.model.quantise.head`) and looked up all the same, and how five bits take no
more than five.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.blocks import BlockMatrix, Form, pack_codes
from orchestrator.model.quantise.fit import fitted
from orchestrator.model.quantise.weight_file import WeightFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

UPPER_BITS = 4
FINE = 16
"""The second column of a sum is for so small a part of it."""


@dataclass(frozen=True)
class StoredMatrix:
    """Names and shapes of a matrix' weights.

    Attributes:
        form: of its blocks.
        bits: of a code, around ``1 << bits - 1`` as zero.
        rows, columns: N, K.
        upper: [N, blocks + sum_blocks, bytes]: codes, or their upper four bits if there is a ``lower`` plane; then the
            weights of sums.
        lower: [N, blocks, bytes]: the other bits; None where there are none.
        scales: [N, blocks].
        sum_columns: how many columns of weights for sums there are; as many as blocks, or twice as many.
        sum_scales: [N, sum_blocks]; None without.
        corrections: [N, blocks], of a matrix whose rows are looked up; None without.
    """

    form: Form
    bits: int
    rows: int
    columns: int
    upper: str
    lower: str | None
    scales: str
    sum_columns: int
    sum_scales: str | None
    corrections: str | None

    @property
    def blocks(self) -> int:
        return self.columns // self.form.block

    @property
    def lower_bits(self) -> int:
        return self.bits - UPPER_BITS if self.lower else 0


def store(matrix: BlockMatrix, name: str, file: WeightFile, *, looked_up: bool) -> StoredMatrix:
    """Write a matrix with its codes in one plane."""
    codes, sums = matrix.packed(), None
    if matrix.corrections is not None:
        sums = _columns_of_sums(matrix.corrections, matrix.form)
        codes = np.concatenate([codes, sums.packed()], axis=1)
    upper = file.add(f"{name}.codes", codes)
    return _stored(matrix, matrix.form.bits, name, upper, None, sums, file, looked_up=looked_up)


def store_in_planes(matrix: BlockMatrix, name: str, file: WeightFile, *, multiplied: bool) -> StoredMatrix:
    """Write a matrix of eight bits with its codes in two planes; of codes that differ in fewer bits, with those.

    Args:
        multiplied: in two passes, and not only looked up.
    """
    bits = needed_bits(matrix)
    lower_bits = bits - UPPER_BITS
    codes = (matrix.codes - np.uint8(matrix.form.zero - (1 << bits - 1))).reshape(matrix.rows, -1, matrix.form.block)
    lower = file.add(f"{name}.lower", pack_codes(codes & np.uint8((1 << lower_bits) - 1), lower_bits))
    upper, sums = pack_codes(codes >> np.uint8(lower_bits), UPPER_BITS), None
    if multiplied:
        missing = matrix.scales * np.float32(((1 << lower_bits) - 1) / 2)
        if matrix.corrections is not None:
            missing += matrix.corrections
        sums = fitted(_filled(missing, matrix.form.block), Form(UPPER_BITS, matrix.form.block, corrected=False))
        upper = np.concatenate([upper, sums.packed()], axis=1)
    upper_name = file.add(f"{name}.upper", upper)
    return _stored(matrix, bits, name, upper_name, lower, sums, file, looked_up=True)


def needed_bits(matrix: BlockMatrix) -> int:
    """In how many bits, more than four, codes around zero can be told apart; two planes hold 5, 6 or 8."""
    below, above = matrix.form.zero - int(matrix.codes.min()), int(matrix.codes.max()) - matrix.form.zero
    return next(bits for bits in (5, 6, 8) if below <= 1 << bits - 1 and above < 1 << bits - 1)


def sum_columns(form: Form, blocks: int) -> int:
    """How many columns the corrections of a row take."""
    return blocks if form.bits > UPPER_BITS else 2 * blocks


def _stored(
    matrix: BlockMatrix,
    bits: int,
    name: str,
    upper: str,
    lower: str | None,
    sums: BlockMatrix | None,
    file: WeightFile,
    *,
    looked_up: bool,
) -> StoredMatrix:
    blocks = matrix.scales.shape[1]
    columns = 0
    if sums is not None:
        columns = blocks if lower else sum_columns(matrix.form, blocks)
    return StoredMatrix(
        form=matrix.form,
        bits=bits,
        rows=matrix.rows,
        columns=matrix.columns,
        upper=upper,
        lower=lower,
        scales=file.add_floats(f"{name}.scales", matrix.scales),
        sum_columns=columns,
        sum_scales=None if sums is None else file.add_floats(f"{name}.sum_scales", sums.scales),
        corrections=(
            file.add_floats(f"{name}.corrections", matrix.corrections)
            if looked_up and matrix.corrections is not None
            else None
        ),
    )


def _columns_of_sums(corrections: NDArray[np.float32], form: Form) -> BlockMatrix:
    """Corrections [N, blocks] as weights of sums, filled up to whole blocks."""
    plain = Form(form.bits, form.block, corrected=False)
    if form.bits > UPPER_BITS:
        return fitted(_filled(corrections, form.block), plain)
    # Rounded to the step of a block whose largest value is this row's; then what that left, finer.
    half = 1 << UPPER_BITS - 1
    step = np.maximum(np.abs(corrections).max(axis=1, keepdims=True) / (half - 0.5), np.float32(1e-30))
    coarse = np.clip(np.rint(corrections / step), -half, half - 1)
    fine = np.clip(np.rint((corrections - coarse * step) / step * FINE), -half, half - 1)
    codes = _filled(np.concatenate([coarse, fine], axis=1), form.block)
    scales = np.repeat(step, codes.shape[1] // form.block, axis=1)
    return BlockMatrix(plain, (codes + half).astype(np.uint8), scales, None)


def _filled(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """With columns of zeros, so that there are whole blocks."""
    spare = -values.shape[1] % block
    return np.pad(values, ((0, 0), (0, spare)))
