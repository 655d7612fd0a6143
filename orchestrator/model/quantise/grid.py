"""Weights that were quantised before: found again from their values, so that they need not be rounded a second time.

A file whose weights have been rounded to few levels in each block (a GGUF file, a checkpoint trained for four bits) is
read as float32. The levels of a block are equally far apart, so its values say what they were: the distance is the
block's range divided by a small number. Nothing has to be known of the file's format, of rows that were reordered, or
of matrices that were joined; and what is found is right because it gives the same values again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.blocks import BlockMatrix, Form, Found, filled_in_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMS = tuple(
    sorted(
        (Form(bits, block, corrected) for bits in (4, 8) for block in (16, 32) for corrected in (False, True)),
        key=lambda form: form.bits_per_weight,
    )
)
"""From the smallest; which are tried in this order."""
TOLERANCE = 2e-3
"""Of the distance between two levels; float32 is off by 1e-5 of it, other weights by a quarter."""
_SAMPLE_ROWS = 64


def on_a_grid(weights: NDArray[np.float32]) -> BlockMatrix | None:
    """``weights`` [N, K] in the smallest form that has the very same values; None if there is none.

    They may be a view of a file: some rows are read at a time.
    """
    for form in FORMS:
        if weights.shape[1] % form.block:
            continue
        sample = np.array(weights[:: max(1, len(weights) // _SAMPLE_ROWS)])
        if _codes(sample.reshape(-1, form.block), form) is not None:
            found = filled_in_pieces(weights, form, _codes)
            if found is not None:
                return found
    return None


def _codes(blocks: NDArray[np.float32], form: Form) -> Found | None:
    """Of all blocks [M, block], or None if one has none."""
    count = len(blocks)
    codes = np.full(blocks.shape, form.zero, np.uint8)
    scales, corrections = np.zeros(count, np.float32), np.zeros(count, np.float32)
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    if form.corrected:
        corrections[:] = low  # right already where all values of a block are equal
        left = np.flatnonzero(high > low)
    else:
        left = np.flatnonzero((high > 0) | (low < 0))
    for levels in _spans(form):
        if not len(left):
            break
        values = blocks[left]
        if form.corrected:
            origin = low[left]
            scale = (high[left] - origin) / np.float32(levels)
            offset = form.zero - (levels + 1) // 2  # codes on both sides of zero, so that corrections are small
        else:
            origin = np.float32(0)
            largest = np.where(-low[left] > high[left], low[left], high[left])
            scale = largest / np.float32(-levels)  # so that the largest gets the code that only the negative side has
            offset = form.zero
        exact = (values - np.reshape(origin, (-1, 1))) / scale[:, None]
        rounded = np.rint(exact)
        found = (np.abs(exact - rounded).max(axis=1) <= TOLERANCE) & (rounded.max(axis=1) + offset < 1 << form.bits)
        hit = left[found]
        codes[hit] = (rounded[found] + offset).astype(np.uint8)
        scales[hit] = scale[found]
        if form.corrected:
            corrections[hit] = origin[found] + scale[found] * (form.zero - offset)
        left = left[~found]
    return None if len(left) else (codes, scales, corrections)


def _spans(form: Form) -> Iterable[int]:
    """How many levels a block's range may have: the usual ones, then from the fewest, since twice as many fit too."""
    most = (1 << form.bits) - 1 if form.corrected else form.zero
    usual = (15, 31, 63) if form.corrected else (8, 16, 31, 32, 127)
    return dict.fromkeys([*(n for n in usual if n <= most), *range(1, most + 1)])
