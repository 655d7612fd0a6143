"""The exponentially weighted moving average: one way to smooth what is measured again and again."""

from __future__ import annotations


def ewma(before: float | None, sample: float, weight: float) -> float:
    """What ``before`` becomes with a sample more, which counts ``weight``; the first sample counts alone."""
    return sample if before is None else before + weight * (sample - before)
