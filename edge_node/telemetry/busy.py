"""When a node says that it will compute, and be silent, for a while (pure)."""

from __future__ import annotations

WORTH_TELLING_S = 0.4
"""A run that takes longer is announced."""
UNKNOWN_S = 10.0
"""What the first run of its kind is announced to take at most."""
_MARGIN, _LEAST_S = 4.0, 2.0
"""A device slows down when it gets hot, or when something else runs on it."""


def busy_s(expected_s: float | None) -> float:
    """For how long a node may be silent in a run that is expected to take so long; 0 if that is not worth telling."""
    if expected_s is None:
        return UNKNOWN_S
    return _MARGIN * expected_s + _LEAST_S if expected_s >= WORTH_TELLING_S else 0.0
