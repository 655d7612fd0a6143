"""Percentiles of some values."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies, interpolated between neighbours; at least one value."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median_and_p95(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile of at least one value."""
    return percentile(values, 0.5), percentile(values, 0.95)
