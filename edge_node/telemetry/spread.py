"""The spread of repeated measurements of one thing."""

from __future__ import annotations

from collections.abc import Sequence


def spread_s(times_s: Sequence[float]) -> float:
    """Seconds between the quickest and the slowest of the middle half."""
    ordered = sorted(times_s)
    return ordered[(3 * len(ordered) - 1) // 4] - ordered[len(ordered) // 4]
