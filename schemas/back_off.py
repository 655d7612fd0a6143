"""Back-off: how long to wait before something that failed is tried again."""

from __future__ import annotations

import math
import random

_MOST_DOUBLINGS = 64


def back_off_s(first_s: float, times: int, longest_s: float = math.inf) -> float:
    """The wait after ``times`` further failures: ``first_s`` doubled so many times, ``longest_s`` at the most."""
    return min(first_s * 2.0 ** min(times, _MOST_DOUBLINGS), longest_s)


def out_of_step(wait_s: float) -> float:
    """A random wait between half of ``wait_s`` and all of it: those that failed together do not come back together."""
    return wait_s * random.uniform(0.5, 1.0)
