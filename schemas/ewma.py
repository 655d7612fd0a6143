"""The exponentially weighted moving average: one way to smooth what is measured again and again."""

from __future__ import annotations


def ewma(before: float | None, sample: float, weight: float) -> float:
    """The average after one more sample of this weight (0 to 1); without a ``before``, the sample itself."""
    return sample if before is None else before + weight * (sample - before)
