"""How hidden states are transformed that travel as int8."""

from __future__ import annotations

import math

from schemas.codec import INT8_BLOCK


def hadamard_run(width: int) -> tuple[int, float, float]:
    """How hidden states in int8 are transformed: each run of so many values by Hadamard's matrix of that size.

    Returns:
        The length of a run, the largest power of two up to ``INT8_BLOCK`` that divides ``width``; and the powers of two
        that the transforms before and after the wire are multiplied with, whose product is one over that length.
    """
    run = math.gcd(width, INT8_BLOCK)
    bits = run.bit_length() - 1
    return run, 2.0 ** -(bits // 2), 2.0 ** -(bits - bits // 2)
