"""The rate of tokens per second (pure)."""

from __future__ import annotations

import math
from collections import deque


class RateMeter:
    """Counts over a window that ends now."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._counts: deque[tuple[float, int]] = deque()
        self._sum = 0
        self.newest_s = -math.inf
        """When something was last counted."""

    def add(self, count: int, now_s: float) -> None:
        """Count so many more."""
        self._sum += count
        self.newest_s = now_s
        if self._counts and now_s - self._counts[-1][0] < self._window_s / 50:
            at_s, before = self._counts.pop()
            self._counts.append((at_s, before + count))
        else:
            self._counts.append((now_s, count))
        self._forget(now_s)

    def per_s(self, now_s: float) -> float:
        """The rate since the first count of the window, over a second at least: what has just begun is not diluted."""
        self._forget(now_s)
        if not self._counts:
            return 0.0
        return self._sum / min(max(now_s - self._counts[0][0], 1.0), self._window_s)

    def _forget(self, now_s: float) -> None:
        while self._counts and now_s - self._counts[0][0] > self._window_s:
            self._sum -= self._counts.popleft()[1]
