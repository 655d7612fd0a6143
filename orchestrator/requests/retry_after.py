"""How soon a refused client may ask again, estimated from the answers that end."""

from __future__ import annotations

import math

from schemas.ewma import ewma

_WEIGHT = 0.3
"""Of a new interval."""


class RetryAfter:
    """The smoothed time between the ends of two answers while others waited for their turn."""

    def __init__(self) -> None:
        self._ended_s: float | None = None
        self._interval_s: float | None = None

    def ended(self, now_s: float, *, others_wait: bool) -> None:
        """An answer ended and gave its turn away."""
        if others_wait and self._ended_s is not None:
            self._interval_s = ewma(self._interval_s, now_s - self._ended_s, _WEIGHT)
        self._ended_s = now_s if others_wait else None

    def advice(self) -> str:
        """What to tell a client."""
        if self._interval_s is None:
            return "ask again later"
        return f"ask again in {max(1, math.ceil(self._interval_s))} s"
