"""Back-off: how long to wait before something that failed is tried again."""

from __future__ import annotations

import math
import random

_MOST_DOUBLINGS = 64


def back_off_s(first_s: float, times: int, longest_s: float = math.inf) -> float:
    """The wait after ``times`` further failures: ``first_s`` doubled so many times, ``longest_s`` at the most."""
    return min(first_s * 2.0 ** min(times, _MOST_DOUBLINGS), longest_s)


def absence_s(away_s: float, shortest_s: float, longest_s: float) -> float:
    """The wait between two looks whether something is back that has been away so long: a tenth of that, in bounds.

    It is missed for a tenth of its absence at the most, and looking for it costs less the longer it is away.
    """
    return max(shortest_s, min(away_s / 10, longest_s))


def out_of_step(wait_s: float) -> float:
    """A random wait between half of ``wait_s`` and all of it: those that failed together do not come back together."""
    return wait_s * random.uniform(0.5, 1.0)
