"""A matrix in blocks as weights of a graph.

**Sums.** A block that is not centred on zero adds its correction times the sum of its inputs. These sums are further
inputs, and corrections further weights behind those of the matrix; where those have four bits, twice: corrections, and
what rounding them left, in blocks of their own. So a correction takes no operator, and few bytes.

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
from orchestrator.model.quantise.weight_file import Floats, WeightFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

UPPER_BITS = 4


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
        scales: [N, blocks]; with those of the sums behind, unless these are in ``sum_scales``.
        sum_copies: how many times ``upper`` has weights for sums, each time filled up to whole blocks.
        sum_scales: [N, sum_blocks], of a matrix whose rows are looked up; None without.
        corrections: [N, blocks], of a matrix whose rows are looked up; None without.
    """

    form: Form
    bits: int
    rows: int
    columns: int
    upper: str
    lower: str | None
    scales: Floats
    sum_copies: int
    sum_scales: Floats | None
    corrections: Floats | None

    @property
    def blocks(self) -> int:
        return self.columns // self.form.block

    @property
    def sum_columns(self) -> int:
        """Inputs behind those of the matrix: of the last copy only the sums themselves."""
        if not self.sum_copies:
            return 0
        return (self.sum_copies - 1) * filled_columns(self.blocks, self.form.block) + self.blocks

    @property
    def lower_bits(self) -> int:
        return self.bits - UPPER_BITS if self.lower else 0


def store(matrix: BlockMatrix, name: str, file: WeightFile, *, looked_up: bool) -> StoredMatrix:
    """Write a matrix with its codes in one plane."""
    sums = [] if matrix.corrections is None else _weights_of_sums(matrix.corrections, matrix.form)
    codes = np.concatenate([matrix.packed(), *(part.packed() for part in sums)], axis=1)
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
    upper = pack_codes(codes >> np.uint8(lower_bits), UPPER_BITS)
    sums: list[BlockMatrix] = []
    if multiplied:
        missing = matrix.scales * np.float32(((1 << lower_bits) - 1) / 2)
        if matrix.corrections is not None:
            missing += matrix.corrections
        sums = [fitted(_filled(missing, matrix.form.block), Form(UPPER_BITS, matrix.form.block, corrected=False))]
        upper = np.concatenate([upper, sums[0].packed()], axis=1)
    upper_name = file.add(f"{name}.upper", upper)
    return _stored(matrix, bits, name, upper_name, lower, sums, file, looked_up=True)


def needed_bits(matrix: BlockMatrix) -> int:
    """In how many bits, more than four, codes around zero can be told apart; two planes hold 5, 6 or 8."""
    below, above = matrix.form.zero - int(matrix.codes.min()), int(matrix.codes.max()) - matrix.form.zero
    return next(bits for bits in (5, 6, 8) if below <= 1 << bits - 1 and above < 1 << bits - 1)


def filled_columns(columns: int, block: int) -> int:
    """``columns`` rounded up to whole blocks."""
    return -(-columns // block) * block


def _stored(
    matrix: BlockMatrix,
    bits: int,
    name: str,
    upper: str,
    lower: str | None,
    sums: list[BlockMatrix],
    file: WeightFile,
    *,
    looked_up: bool,
) -> StoredMatrix:
    scales, apart = matrix.scales, None
    if sums:
        of_sums = np.concatenate([part.scales for part in sums], axis=1)
        if looked_up:  # by block, so that the others must not be in between
            apart = file.add_halves(f"{name}.sum_scales", of_sums)
        else:
            scales = np.concatenate([scales, of_sums], axis=1)
    # Of small codes scales are so large a part that a second copy in memory costs more than halves spare on disk.
    add = file.add_halves if looked_up or matrix.form.bits > UPPER_BITS else file.add_floats
    return StoredMatrix(
        form=matrix.form,
        bits=bits,
        rows=matrix.rows,
        columns=matrix.columns,
        upper=upper,
        lower=lower,
        scales=add(f"{name}.scales", scales),
        sum_copies=len(sums),
        sum_scales=apart,
        corrections=(
            file.add_halves(f"{name}.corrections", matrix.corrections)
            if looked_up and matrix.corrections is not None
            else None
        ),
    )


def _weights_of_sums(corrections: NDArray[np.float32], form: Form) -> list[BlockMatrix]:
    """Corrections [N, blocks], and what is left of them where they are rounded to four bits."""
    plain = Form(form.bits, form.block, corrected=False)
    wanted = _filled(corrections, form.block)
    parts = [fitted(wanted, plain)]
    if form.bits == UPPER_BITS:
        parts.append(fitted(wanted - parts[0].dequantised(), plain))
    return parts


def _filled(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """With columns of zeros, so that there are whole blocks."""
    spare = filled_columns(values.shape[1], block) - values.shape[1]
    return np.pad(values, ((0, 0), (0, spare)))
