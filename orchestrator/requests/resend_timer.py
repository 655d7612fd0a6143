"""A timer: when tokens that may have been lost are asked for again (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.back_off import back_off_s

_GAP_S = 0.2
"""Between two times, at the least, once it is known that tokens are missing."""
_MOST_GROWTH = 10.0


@dataclass
class ResendTimer:
    """The date of asking again: a while after the newest token, then after longer and longer whiles."""

    progress_s: float = 0.0
    """When the newest token came, or the request was opened."""
    due_s: float = 0.0
    _asked_s: float = -math.inf
    _first_wait_s: float = 0.0
    _times_asked: int = 0
    """Since the newest token."""

    def progressed(self, now_s: float, *, wait_s: float) -> bool:
        """Begin anew: a token has come, or the request was opened; ``wait_s``: the first while.

        Returns:
            Whether tokens are asked for sooner than they would have been, as after a silence.
        """
        self.progress_s = now_s
        self._first_wait_s, self._times_asked = wait_s, 0
        before_s, self.due_s = self.due_s, now_s + wait_s
        return self.due_s < before_s

    def found_gap(self) -> None:
        """Ask soon: a token has come too early, so those before it are missing."""
        self.due_s = min(self.due_s, self._asked_s + _GAP_S)

    def asked(self, now_s: float) -> None:
        """Note that missing tokens have been asked for."""
        self._asked_s = now_s
        self._times_asked += 1
        self.due_s = now_s + back_off_s(self._first_wait_s, self._times_asked, _MOST_GROWTH * self._first_wait_s)
