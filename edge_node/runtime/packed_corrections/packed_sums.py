"""The sums of blocks in weights that ONNX Runtime has packed: found by what they are, and corrected.

For products with inputs in eight bits its kernels hold, for each block, a float32 that they add times the sum of the
block's inputs, as codes have no sign: scale times zero point. A correction is the same sort of thing. No graph can give
it, because zero points are whole numbers. So the graph is opened without corrections, and they are added to these
numbers in memory. Where they stand is known: 16 rows side by side, at an address that is a multiple of 64.

Nothing of that is promised by ONNX Runtime. So `works_here` multiplies some numbers on this processor first, and no
product is changed whose numbers are not found to the bit, all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_node.runtime.process_memory import LINE_BYTES, ProcessMemory

Array = NDArray[Any]
Pieces = Callable[[], Iterator[Array]]
"""Values one behind the other, at most a megabyte in a piece; what is not a number may be anything."""


class Replacement(NamedTuple):
    """What stands in memory, and so many times; and what is to stand there.

    No copy of what stands there may be at an address that is a multiple of 64: it would be taken for it.
    """

    before: Pieces
    after: Pieces
    times: int


def replace(wanted: Sequence[Replacement]) -> str:
    """Replace numbers in this process's memory, all or none.

    Returns:
        Why none were replaced; empty if they were.

    Raises:
        OSError: memory can't be read, or, when some of it was written already, not be written.
    """
    with ProcessMemory() as memory:
        places, failure = _places(memory, wanted)
        if not failure:
            for one, addresses in zip(wanted, places, strict=True):
                for address in addresses:
                    _write(memory, address, one.after())
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
    for address, line in memory.lines(landmarks):
        for number, place in landmarks[line]:
            if _is_there(memory, address - place, wanted[number].before()):
                found[number].append(address - place)
    other = sum(len(places) != one.times for one, places in zip(wanted, found, strict=True))
    return found, f"{other} of {len(wanted)} packed matrices are not where they were expected" if other else ""


def _landmark(values: Array) -> tuple[bytes, int]:
    """The first line of these that has neither a zero, of which there are two, nor what may be anything, and its place
    in bytes; nothing if there is none."""
    lines = values.reshape(-1, LINE_BYTES // values.itemsize)
    good = np.flatnonzero(((lines != 0) & ~np.isnan(lines)).all(axis=1))
    return (lines[good[0]].tobytes(), int(good[0]) * LINE_BYTES) if len(good) else (b"", 0)


def _is_there(memory: ProcessMemory, address: int, pieces: Iterator[Array]) -> bool:
    for piece in pieces:
        there = memory.read(address, piece.nbytes)
        if len(there) != piece.nbytes:
            return False
        values = np.frombuffer(there, np.float32).reshape(piece.shape)
        if not ((values == piece) | np.isnan(piece)).all():
            return False
        address += piece.nbytes
    return True


def _write(memory: ProcessMemory, address: int, pieces: Iterator[Array]) -> None:
    for piece in pieces:
        memory.write(address, piece.data)
        address += piece.nbytes
