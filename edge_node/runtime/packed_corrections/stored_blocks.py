"""The blocks of a corrected product, out of the blobs of its weights: without means, and the corrections by themselves.

All in pieces of some rows: a head of 262,144 tokens would be a quarter of a gigabyte in one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_node.runtime.graph_writer import FLOAT, FLOAT16, UINT8
from edge_node.runtime.packed_corrections.graph_view import Weights
from edge_node.runtime.packed_corrections.packed_sums import Piece
from edge_node.runtime.packed_corrections.products import PANEL, Matrix

_PIECE_BYTES = 1 << 20
_ALIGNMENT = 64
_TYPES = {FLOAT: np.float32, FLOAT16: np.float16, UINT8: np.uint8}

Array = NDArray[Any]


class StoredBlocks:
    """Those of one matrix."""

    def __init__(self, matrix: Matrix, folder: Path) -> None:
        """Read nothing yet; the blobs are in ``folder``."""
        self._matrix = matrix
        self._codes = _Rows(matrix.codes, folder, matrix.codes.shape)
        self._scales = _Rows(matrix.scales.weights, folder, matrix.codes.shape[:2])
        self._step = max(1, _PIECE_BYTES // (self._codes.row_bytes * PANEL)) * PANEL

    @property
    def stored_bytes(self) -> int:
        """What ``write_codes`` and ``write_scales`` write."""
        blocks = self._matrix.rows * self._matrix.blocks
        return blocks * (self._matrix.block * self._matrix.bits // 8 + 4)

    def write_codes(self, file: BinaryIO) -> Weights:
        """Write the codes without those of means to a file of that name; where they are then."""
        return _written(file, (self._codes[rows][:, : self._matrix.blocks] for rows in self._pieces()), UINT8)

    def write_scales(self, file: BinaryIO) -> Weights:
        """The same of scales, as float32."""
        return _written(file, (self._scales_of(rows)[:, : self._matrix.blocks] for rows in self._pieces()), FLOAT)

    def sums(self, *, corrected: bool) -> Iterator[Piece]:
        """What a block adds times the sum of its inputs, as packed weights have it.

        That is the product of scale and zero point, by which codes are too large, and, if asked for, the correction.

        Raises:
            ValueError: they are not finite.
        """
        for rows in self._pieces():
            scales = self._scales_of(rows)
            sums = scales[:, : self._matrix.blocks] * np.float32(-self._matrix.zero)
            if corrected:
                sums = sums + self._corrections(rows, scales)
            if not np.isfinite(sums).all():
                raise ValueError("weights that are not finite")
            yield Piece(in_panels(np.pad(sums, ((0, -len(sums) % PANEL), (0, 0)))), len(sums))

    def _pieces(self) -> Iterator[slice]:
        rows = self._matrix.rows
        return (slice(begin, min(begin + self._step, rows)) for begin in range(0, rows, self._step))

    def _scales_of(self, rows: slice) -> Array:
        scales: Array = self._scales[rows].astype(np.float32) * np.float32(self._matrix.scales.factor)
        return scales

    def _corrections(self, rows: slice, scales: Array) -> Array:
        """Of each block, [rows, blocks] float32: the weights of its mean in all copies, over the block's length."""
        matrix, means = self._matrix, self._matrix.means
        packed = self._codes[rows][:, matrix.blocks :]
        codes = np.stack([packed & 15, packed >> 4], axis=-1) if matrix.bits == 4 else packed
        centred = codes.reshape(*packed.shape[:2], matrix.block).astype(np.float32) - np.float32(matrix.zero)
        weights = (centred * scales[:, matrix.blocks :, None]).reshape(len(packed), -1)
        stride = matrix.blocks + means.fill
        copies = [weights[:, begin : begin + matrix.blocks] for begin in range(0, means.copies * stride, stride)]
        corrections: Array = sum(copies[1:], copies[0]) / np.float32(matrix.block * means.factor)
        return corrections


def in_panels(values: Array) -> Array:
    """[rows, blocks] as packed weights have them, [panels, blocks, 16] float32, at an address that those never have."""
    shape = len(values) // PANEL, values.shape[1], PANEL
    room = np.empty(values.size + _ALIGNMENT, np.float32)
    aside = (-room.ctypes.data % _ALIGNMENT) // room.itemsize + 1
    panels = room[aside : aside + values.size].reshape(shape)
    panels[...] = values.reshape(-1, PANEL, shape[1]).swapaxes(1, 2)
    return panels


class _Rows:
    """Rows of a tensor in a blob. They are read, not mapped: mapped pages would count as this process's memory."""

    def __init__(self, weights: Weights, folder: Path, shape: tuple[int, ...]) -> None:
        self._path, self._offset, self._shape = folder / weights.blob, weights.offset, shape
        self._dtype = np.dtype(_TYPES[weights.elem_type])
        self.row_bytes = math.prod(shape[1:]) * self._dtype.itemsize

    def __getitem__(self, rows: slice) -> Array:
        count, begin = rows.stop - rows.start, self._offset + rows.start * self.row_bytes
        values = np.fromfile(self._path, self._dtype, count * math.prod(self._shape[1:]), offset=begin)
        return values.reshape(count, *self._shape[1:])


def _written(file: BinaryIO, pieces: Iterator[Array], elem_type: int) -> Weights:
    """Append pieces to a file, aligned; where they are then."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    offset, rows, shape = file.tell(), 0, ()
    for piece in pieces:
        file.write(np.ascontiguousarray(piece).data)
        rows, shape = rows + len(piece), piece.shape[1:]
    return Weights(Path(file.name).name, offset, (rows, *shape), elem_type)
