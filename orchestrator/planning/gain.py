"""The gain of a plan over another."""

from __future__ import annotations

LEAST_GAIN = 0.05
"""What works is changed of its own accord only for more than this share."""

NOTHING_BETTER = "the plan in force is the best one"
"""For people, where another plan was looked for."""


def gain(now_s: float, then_s: float) -> float:
    """The share of the time that is saved; 0 where none is taken."""
    return 1 - then_s / now_s if now_s > 0 else 0.0
