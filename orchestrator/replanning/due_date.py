"""A date for something that several may ask for (pure)."""

from __future__ import annotations

import math


class DueDate:
    """One date, never before a start: of all who ask the last word counts."""

    def __init__(self) -> None:
        self.due_s = math.inf
        self.forced = False
        """Somebody wants it whatever it gains."""
        self._not_before_s = 0.0

    @property
    def is_set(self) -> bool:
        return self.due_s < math.inf

    def start(self, not_before_s: float) -> None:
        """Let the date never be before this time."""
        self._not_before_s = not_before_s

    def put(self, due_s: float) -> None:
        """Set the date to this time."""
        self.due_s = max(due_s, self._not_before_s)

    def hurry(self, now_s: float) -> None:
        """Set the date to now, if it is not earlier."""
        self.due_s = min(self.due_s, max(now_s, self._not_before_s))

    def clear(self) -> None:
        """Take the date away."""
        self.due_s = math.inf

    def take_forced(self) -> bool:
        """Was the date forced? The next one is not, unless somebody asks for that again."""
        forced, self.forced = self.forced, False
        return forced
