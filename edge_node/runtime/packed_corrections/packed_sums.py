"""The sums of blocks in weights that ONNX Runtime has packed: found by what they are, and corrected.

For products with inputs in eight bits its kernels hold, for each block, a float32 that they add times the sum of the
block's inputs, as codes have no sign: scale times zero point. A correction is the same sort of thing. No graph can give
it, because zero points are whole numbers. So the graph is opened without corrections, and they are added to these
numbers in memory. Where they stand is known: 16 rows side by side, at an address that is a multiple of 64.

Nothing of that is promised by ONNX Runtime. So `trial` multiplies some numbers on this processor first, and nothing is
changed unless all numbers are found, to the bit, and nowhere else.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_node.runtime.packed_corrections.products import PANEL
from edge_node.runtime.process_memory import LINE_BYTES, ProcessMemory

Array = NDArray[Any]


class Piece(NamedTuple):
    """Sums of some rows, [panels, blocks, 16] float32, at most a megabyte; behind the last row may be anything."""

    values: Array
    rows: int


Pieces = Callable[[], Iterator[Piece]]
"""One behind the other."""


class Replacement(NamedTuple):
    """What stands in memory, and so many times; and what is to stand there.

    No copy of what stands there may be at an address that is a multiple of 64: it would be taken for it.
    """

    before: Pieces
    after: Pieces
    times: int


def replace(wanted: Sequence[Replacement]) -> str:
    """Replace numbers in this process's memory.

    Returns:
        Why none were replaced; empty if all were.

    Raises:
        OSError: memory can't be read, or, when some of it was written already, not be written.
        RuntimeError: what was found is not there any more, when some of it was written already.
    """
    with ProcessMemory() as memory:
        places, failure = _places(memory, wanted)
        if not failure:
            for one, addresses in zip(wanted, places, strict=True):
                for address in addresses:
                    _write(memory, address, one)
    return failure


def _places(memory: ProcessMemory, wanted: Sequence[Replacement]) -> tuple[list[list[int]], str]:
    """Where the numbers are, or what is the matter with them."""
    landmarks: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for number, one in enumerate(wanted):
        line, place = _landmark(next(one.before()))
        if not line:
            return [], "a matrix has blocks without a scale"
        landmarks[line].append((number, place))
    found: list[list[int]] = [[] for _ in wanted]
    ranges: list[tuple[int, int]] = []
    for address, line in memory.lines(landmarks):
        for number, place in landmarks[line]:
            size_bytes = _size_if_there(memory, address - place, wanted[number].before())
            if size_bytes:
                found[number].append(address - place)
                ranges.append((address - place, address - place + size_bytes))
    ranges.sort()
    other = sum(len(places) != one.times for one, places in zip(wanted, found, strict=True))
    if other or any(stop > begin for (_, stop), (begin, _) in itertools.pairwise(ranges)):
        return found, f"{other or len(wanted)} of {len(wanted)} packed matrices are not where they were expected"
    return found, ""


def _landmark(piece: Piece) -> tuple[bytes, int]:
    """The first line of these that is of rows alone and has no zero, of which there are two, and its place in bytes;
    nothing if there is none."""
    lines = piece.values[: piece.rows // PANEL].reshape(-1, LINE_BYTES // piece.values.itemsize)
    good = np.flatnonzero((lines != 0).all(axis=1))
    return (lines[good[0]].tobytes(), int(good[0]) * LINE_BYTES) if len(good) else (b"", 0)


def _size_if_there(memory: ProcessMemory, address: int, pieces: Iterator[Piece]) -> int:
    """How many bytes these numbers are; 0 if others are there."""
    begin = address
    for piece in pieces:
        if not _has(memory, address, piece):
            return 0
        address += piece.values.nbytes
    return address - begin


def _has(memory: ProcessMemory, address: int, piece: Piece) -> bool:
    there = memory.read(address, piece.values.nbytes)
    if len(there) != piece.values.nbytes:
        return False
    values = np.frombuffer(there, np.float32).reshape(piece.values.shape)
    is_row = np.arange(len(values) * PANEL).reshape(-1, 1, PANEL) < piece.rows
    return bool(((values == piece.values) | ~is_row).all())


def _write(memory: ProcessMemory, address: int, one: Replacement) -> None:
    """Look once more before each piece is written: somebody may have written there meanwhile."""
    for before, after in zip(one.before(), one.after(), strict=True):
        if not _has(memory, address, before):
            raise RuntimeError("packed weights have changed while they were looked for")
        memory.write(address, after.values.data)
        address += after.values.nbytes
