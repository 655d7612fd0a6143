"""How long to wait before what failed is tried again."""

from __future__ import annotations

import math
import random

_MOST_DOUBLINGS = 64


def back_off_s(first_s: float, times: int, longest_s: float = math.inf) -> float:
    """``first_s``, doubled so many times, but ``longest_s`` at the most."""
    return min(first_s * 2.0 ** min(times, _MOST_DOUBLINGS), longest_s)


def out_of_step(wait_s: float) -> float:
    """Between half and all of it, by lot: those that failed together do not all come back together."""
    return wait_s * random.uniform(0.5, 1.0)
