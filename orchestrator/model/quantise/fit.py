"""Weights rounded to few levels for the first time: scale and correction of each block fitted to its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.quantise.blocks import BlockMatrix, Form, Found, filled_in_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

INT8 = Form(8, 32, corrected=False)
INT4 = Form(4, 32, corrected=True)
_SHRINKS = (1.0, 0.92, 0.84)
"""Parts of a block's range that the levels are laid over at first: its outermost values may be worth giving up."""
_ROUNDS = 2


def fitted(weights: NDArray[np.float32], form: Form) -> BlockMatrix:
    """``weights`` [N, K] rounded to ``form``, K a multiple of its block; corrected forms with the least squared error.

    The fit is alternating least squares: values are rounded to levels, then the line that maps levels to values is
    fitted, and so again.
    """
    matrix = filled_in_pieces(weights, form, _lines if form.corrected else _through_zero)
    assert matrix is not None
    return matrix


def _through_zero(blocks: NDArray[np.float32], form: Form) -> Found:
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    largest = np.where(-low > high, low, high)
    scales = (largest / np.float32(-form.zero if form.bits == 4 else 1 - form.zero)).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)
    codes = np.clip(np.rint(blocks / divisors[:, None]) + form.zero, 0, 2 * form.zero - 1)
    return codes.astype(np.uint8), scales, np.zeros_like(scales)


def _lines(blocks: NDArray[np.float32], form: Form) -> Found:
    most = np.float32((1 << form.bits) - 1)
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    middle, mean = (low + high) / 2, blocks.mean(axis=1, keepdims=True)
    centred = blocks - mean
    best_error = np.full((len(blocks), 1), np.inf, np.float32)
    best = np.zeros(blocks.shape, np.float32), np.zeros_like(mean), blocks[:, :1].copy()
    for shrink in _SHRINKS:
        scale = np.maximum((high - low) * np.float32(shrink) / most, np.float32(1e-30))
        origin = middle - scale * most / 2
        for _ in range(_ROUNDS):
            codes = np.clip(np.rint((blocks - origin) / scale), 0, most)
            code_mean = codes.mean(axis=1, keepdims=True)
            spread = codes - code_mean
            slope = (spread * centred).sum(axis=1, keepdims=True) / np.maximum(
                (spread * spread).sum(axis=1, keepdims=True), np.float32(1e-30)
            )
            scale = np.maximum(slope, np.float32(1e-30))
            origin = mean - scale * code_mean
        error = np.square(blocks - origin - scale * codes).sum(axis=1, keepdims=True)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = tuple(np.where(better, new, old) for new, old in zip((codes, scale, origin), best, strict=True))
    codes, scale, origin = best
    corrections = origin + scale * form.zero
    return codes.astype(np.uint8), scale[:, 0].astype(np.float32), corrections[:, 0].astype(np.float32)
