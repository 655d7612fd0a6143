"""Hadamard's transform of short runs of values, which spreads a large one evenly over its run.

Hidden states have a few channels that are a hundred times as large as the others. Rounded to steps of the largest, its
neighbours would lose most of what they say; in the transform no value is much larger than another. It is done by sums
and differences in a fixed order, so a position comes out the same whichever positions are beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def hadamard(values: Array, run: int) -> Array:
    """The transform (Sylvester's order, not normalised) of each ``run`` values of a row.

    Twice that is ``run`` times the values.

    Args:
        values: (rows, width), float32; width is a multiple of ``run``.
        run: a power of two.
    """
    turned = values.reshape(-1, run).T  # (run, how many): NumPy adds long rows quickly
    for _ in range(run.bit_length() - 1):
        following = np.empty(turned.shape, np.float32)
        np.add(turned[0::2], turned[1::2], out=following[: run // 2])
        np.subtract(turned[0::2], turned[1::2], out=following[run // 2 :])
        turned = following
    return turned.T.reshape(values.shape)
