"""Matrices whose weights were rounded to blocks before, as the formats of GGUF files do it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = {
    # name: (block, levels, lowest code, has an offset)
    "Q4_0": (32, 16, -8, False),
    "Q4_1": (32, 16, 0, True),
    "Q5_0": (32, 32, -16, False),
    "Q5_1": (32, 32, 0, True),
    "Q8_0": (32, 255, -127, False),
    "Q3_K": (16, 8, -4, False),
    "Q6_K": (16, 64, -32, False),
}


def rounded(kind: str, rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """[rows, columns] float32, as read from a file of this kind."""
    block, levels, lowest, offset = KINDS[kind]
    rng = np.random.default_rng(seed)
    codes = rng.integers(lowest, lowest + levels, (rows, columns // block, block))
    codes[..., 0] = lowest  # a block's largest value is what its scale is made of
    codes[..., 1] = lowest + levels - 1
    scales = rng.uniform(0.5, 2, codes.shape[:2]).astype(np.float16).astype(np.float32) / 64
    weights = codes * scales[..., None]
    if offset:
        weights = weights + rng.normal(-0.1, 0.03, codes.shape[:2]).astype(np.float16).astype(np.float32)[..., None]
    return weights.reshape(rows, columns).astype(np.float32)


def floats(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """Weights that were never rounded."""
    return np.random.default_rng(seed).normal(0, 0.05, (rows, columns)).astype(np.float32)
