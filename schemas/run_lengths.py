"""How many rows a run computes, so that each position gets the same bits whatever run it is in (pure).

Kernels treat the last rows and columns of a matrix in other ways than those before, and a single row in a third one. So
behind the positions that are wanted stand dummies: no position looks at later ones, and a dummy's KV row is where the
next position writes its own. How many it takes depends on the processor, and is more for attention than for other
matrices, so most dummies are in attention only. Which of `CANDIDATES` will do, a node tries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunLengths:
    """How long runs are.

    Attention computes a multiple of positions, at least so many of them dummies; other matrices a multiple of rows.
    """

    multiple: int = 1
    dummies: int = 0
    row_multiple: int = 1

    def rows(self, count: int) -> int:
        """Rows of all matrices outside attention, the head's among them, where ``count`` are wanted."""
        return -(-count // self.row_multiple) * self.row_multiple

    def attended(self, count: int) -> int:
        """Positions in attention where ``count`` are wanted, and so KV rows that are written; never less than rows."""
        return -(-(count + self.dummies) // self.multiple) * self.multiple


AS_WANTED = RunLengths()
"""No dummies."""
CANDIDATES = (
    RunLengths(2, 0, 1), RunLengths(2, 0, 2), RunLengths(4, 3, 1), RunLengths(4, 3, 2), RunLengths(4, 3, 4),
)  # fmt: skip
"""The cheapest first: the first two for x86-64 with AVX2, the others for 64-bit ARM with NEON, where products in
attention take rows and columns in fours. Matrices need a second row where weights have another kernel for a single one,
and a multiple of four where it takes rows in fours.
"""
SPARE_POSITIONS = max(lengths.attended(count) - count for lengths in CANDIDATES for count in range(1, 5))
"""Most dummies behind a run: so many rows KV caches have more than the context, and rotary tables have to have them."""
SPARE_ROWS = max(lengths.rows(count) - count for lengths in CANDIDATES for count in range(1, 5))
"""Most dummies in matrices outside attention."""


def spare_positions(same_bits: bool) -> int:
    """Most dummies behind a run where every position is to get the same bits in any run; none elsewhere."""
    return SPARE_POSITIONS if same_bits else 0


def spare_rows(same_bits: bool) -> int:
    """The same, of the matrices outside attention."""
    return SPARE_ROWS if same_bits else 0


def cut_into_runs(tokens: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The runs [start, stop) that a text comes in: of these lengths, taken in turn, the last as long as is left."""
    start = 0
    for length in itertools.cycle(lengths):
        if start >= tokens:
            return
        yield start, min(start + length, tokens)
        start += length
