"""What hidden states lose on the way between nodes; `schemas.codec` has the layouts.

Nodes encode them for speed, in code that the orchestrator doesn't have; this is the same rounding in few words, to
measure what it does to a model's logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.codec import INT8_BLOCK
from schemas.hadamard import hadamard_run
from schemas.messages import WireDtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGEST_EXPONENT = 15
"""Halves have no 2 ** 16: a position with larger values is divided by a power of two."""


def halves_of(hidden: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Hidden states [.., W] as float16, and a power of two [.., 1] for each position to multiply them with."""
    import numpy as np

    peaks = np.abs(hidden).max(axis=-1, keepdims=True)
    exponents = np.frexp(peaks)[1] - _LARGEST_EXPONENT
    scales = np.ldexp(np.float32(1), np.where((peaks >= 1) & (exponents <= 0), 0, exponents)).astype(np.float32)
    halves: NDArray[Any] = (hidden / scales).astype(np.float16)
    return halves, scales


def as_received(hidden: NDArray[Any], wire: WireDtype) -> NDArray[Any]:
    """Hidden states [.., W] in float32 as the next node gets them."""
    import numpy as np

    if wire == "fp16":
        halves, scales = halves_of(hidden)
        received: NDArray[Any] = halves.astype(np.float32) * scales
        return received
    return _in_eight_bits(hidden) if wire == "int8" else hidden


def _in_eight_bits(hidden: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    *rows, width = hidden.shape
    run, before, after = hadamard_run(width)
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < run:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    padded = np.zeros((*rows, -(-width // INT8_BLOCK) * INT8_BLOCK), np.float32)
    padded[..., :width] = ((hidden.reshape(-1, run) @ matrix) * before).reshape(hidden.shape)
    blocks = padded.reshape(*rows, -1, INT8_BLOCK)
    smallest = np.finfo(np.float16).smallest_subnormal
    with np.errstate(over="ignore", invalid="ignore"):  # what scales can't hold does not arrive: not a number
        scales = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True) / 127, smallest).astype(np.float16)
        rounded = np.clip(np.rint(blocks / scales.astype(np.float32)), -127, 127) * scales.astype(np.float32)
        turned = rounded.reshape(padded.shape)[..., :width].reshape(-1, run) @ matrix
    received: NDArray[Any] = (turned * after).reshape(hidden.shape).astype(np.float32)
    return received
