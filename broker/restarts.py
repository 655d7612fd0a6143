"""When a program that has ended is started again, and when no more (pure)."""

from __future__ import annotations

from schemas.back_off import back_off_s

MOST_ENDS = 3
"""Within `WINDOW_S`: whatever ends it is still there, and would again."""
WINDOW_S = 60.0
GIVEN_UP = f"not started again after {MOST_ENDS} ends within {WINDOW_S:.0f} s"
_FIRST_PAUSE_S = 1.0
"""What the program had started itself, and what holds its port, ends meanwhile."""


class Restarts:
    """The ends of one program."""

    def __init__(self) -> None:
        self._ends_s: list[float] = []

    def pause_s(self, now_s: float) -> float | None:
        """Note that it ends now; after how many seconds it is started again. None: not any more."""
        self._ends_s = [*(end_s for end_s in self._ends_s if end_s > now_s - WINDOW_S), now_s]
        if len(self._ends_s) >= MOST_ENDS:
            return None
        return back_off_s(_FIRST_PAUSE_S, len(self._ends_s) - 1)
