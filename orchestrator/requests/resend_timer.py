"""When tokens that may have been lost are asked for again (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

_GAP_S = 0.2
"""Between two times, at the least, once it is known that tokens are missing."""
_GROWTH = 2.0
_MOST_GROWTH = 10.0


@dataclass
class ResendTimer:
    """A while after the newest token, then after longer and longer whiles."""

    progress_s: float = 0.0
    """When the newest token came, or the request was opened."""
    due_s: float = 0.0
    _asked_s: float = -math.inf
    _wait_s: float = 0.0
    _most_wait_s: float = 0.0

    def progressed(self, now_s: float, *, wait_s: float) -> bool:
        """A token has come, or the request was opened; ``wait_s``: the first while.

        Returns:
            Whether tokens are asked for sooner than they would have been, as after a silence.
        """
        self.progress_s = now_s
        self._wait_s, self._most_wait_s = wait_s, wait_s * _MOST_GROWTH
        before_s, self.due_s = self.due_s, now_s + wait_s
        return self.due_s < before_s

    def found_gap(self) -> None:
        """A token has come too early: those before it are missing."""
        self.due_s = min(self.due_s, self._asked_s + _GAP_S)

    def asked(self, now_s: float) -> None:
        """What is missing has been asked for."""
        self._asked_s = now_s
        self._wait_s = min(self._wait_s * _GROWTH, self._most_wait_s)
        self.due_s = now_s + self._wait_s
