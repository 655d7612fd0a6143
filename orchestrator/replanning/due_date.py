"""When something is to be done that several ask for (pure)."""

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
        """Nothing is done before this."""
        self._not_before_s = not_before_s

    def put(self, due_s: float) -> None:
        """Then."""
        self.due_s = max(due_s, self._not_before_s)

    def hurry(self, now_s: float) -> None:
        """Now, if not before."""
        self.due_s = min(self.due_s, max(now_s, self._not_before_s))

    def clear(self) -> None:
        """Not at all."""
        self.due_s = math.inf

    def take_forced(self) -> bool:
        """Was it forced? The next one is not, unless somebody asks for it."""
        forced, self.forced = self.forced, False
        return forced
