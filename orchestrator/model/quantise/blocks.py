"""Matrices in blocks: what MatMulNBits holds, and a correction for blocks that are not centred on zero."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Found: TypeAlias = "tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]"
"""Codes [M, block], scales [M] and corrections [M] of blocks; zeros where there are no corrections."""
_PIECE_WEIGHTS = 1 << 20


@dataclass(frozen=True)
class Form:
    """How a matrix is kept: ``bits`` of a weight, weights of a ``block``, and whether blocks have a correction."""

    bits: int
    block: int
    corrected: bool

    @property
    def zero(self) -> int:
        """The stored value that stands for zero, but for a correction."""
        return 1 << self.bits - 1

    @property
    def bits_per_weight(self) -> float:
        """On disk, with scales and corrections as halves."""
        return self.bits + 16 * (1 + self.corrected) / self.block


@dataclass(frozen=True)
class BlockMatrix:
    """A matrix [N, K]: a weight is ``scale * (code - zero) + correction``, scale and correction those of its block.

    Attributes:
        codes: [N, K] uint8, each below ``2 ** form.bits``.
        scales: [N, K / block] float32; negative ones are allowed.
        corrections: the same shape; None where the form has none.
    """

    form: Form
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    corrections: NDArray[np.float32] | None

    @property
    def rows(self) -> int:
        return len(self.codes)

    @property
    def columns(self) -> int:
        return int(self.codes.shape[1])

    def dequantised(self) -> NDArray[np.float32]:
        """[N, K] float32."""
        rows, columns = self.codes.shape
        blocks = self.codes.reshape(rows, -1, self.form.block).astype(np.float32) - self.form.zero
        blocks *= self.scales[:, :, None]
        if self.corrections is not None:
            blocks += self.corrections[:, :, None]
        return blocks.reshape(rows, columns)

    def fill(
        self,
        rows: slice,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float32],
        corrections: NDArray[np.float32],
    ) -> None:
        """Set some rows, given block after block: codes [M, block], scales and corrections [M]."""
        self.codes[rows] = codes.reshape(-1, self.codes.shape[1])
        self.scales[rows] = scales.reshape(-1, self.scales.shape[1])
        if self.corrections is not None:
            self.corrections[rows] = corrections.reshape(-1, self.scales.shape[1])

    def codes_of(self, rows: slice) -> NDArray[np.uint8]:
        """Codes [rows, K / block, block]."""
        codes = self.codes[rows]
        return codes.reshape(len(codes), -1, self.form.block)

    def packed(self, rows: slice) -> NDArray[np.uint8]:
        """[rows, K / block, block * bits / 8], as MatMulNBits reads it: of two codes in a byte the first is low."""
        return pack_codes(self.codes_of(rows), self.form.bits)


def empty_matrix(shape: tuple[int, ...], form: Form) -> BlockMatrix:
    """A matrix [N, K] to be filled."""
    rows, columns = shape
    blocks = rows, columns // form.block
    corrections = np.empty(blocks, np.float32) if form.corrected else None
    return BlockMatrix(form, np.empty(shape, np.uint8), np.empty(blocks, np.float32), corrections)


def row_pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """All rows of a matrix [N, K], some MB of float32 at a time."""
    rows, columns = shape
    step = max(1, _PIECE_WEIGHTS // columns)
    return (slice(begin, min(begin + step, rows)) for begin in range(0, rows, step))


def filled_in_pieces(
    weights: NDArray[np.float32], form: Form, find: Callable[[NDArray[np.float32], Form], Found | None]
) -> BlockMatrix | None:
    """The matrix that ``find`` makes of ``weights`` [N, K], some rows at a time, on all cores.

    Args:
        weights: may be a view of a file; K is a multiple of the block.
        find: codes, scales and corrections of blocks [M, block], None if they can't be had: then there is no matrix.
    """
    matrix = empty_matrix(weights.shape, form)

    def fill(piece: slice) -> bool:
        found = find(np.array(weights[piece]).reshape(-1, form.block), form)
        if found is not None:
            matrix.fill(piece, *found)
        return found is not None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter in loops over so much
        return matrix if all(pool.map(fill, row_pieces(weights.shape))) else None


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes below ``2 ** bits``, 8 / ``bits`` of them in a byte, along the last axis, the first one lowest."""
    each = 8 // bits
    packed: NDArray[Any] = codes[..., 0::each].copy()
    for index in range(1, each):
        packed |= codes[..., index::each] << np.uint8(index * bits)
    return packed
