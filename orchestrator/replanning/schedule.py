"""When the next plan is to be made (pure)."""

from __future__ import annotations

import math


class ReplanSchedule:
    """One date: of all that asks for a plan the last word counts. ``forced``: somebody wants it whatever it gains."""

    def __init__(self) -> None:
        self.due_s = math.inf
        self.forced = False
        self.only_when_idle = False
        """Open requests are not to be disturbed for it."""
        self.awaits_profiles = False
        """It waits for figures of nodes."""
        self._not_before_s = 0.0

    @property
    def is_set(self) -> bool:
        return self.due_s < math.inf

    def start(self, due_s: float) -> None:
        """Nothing is planned before this."""
        self._not_before_s = self.due_s = due_s

    def ask(self, due_s: float, *, forced: bool = False) -> None:
        """Plan then, though requests are open."""
        self.forced = self.forced or forced
        self.only_when_idle = False
        self.due_s = max(due_s, self._not_before_s)

    def hurry(self, now_s: float) -> None:
        """Plan now, if not before."""
        self.due_s = min(self.due_s, max(now_s, self._not_before_s))

    def wait_until_idle(self, now_s: float) -> None:
        """Plan once no request is open."""
        self.only_when_idle = True
        self.hurry(now_s)

    def wait_for_profiles(self, until_s: float, *, forced: bool) -> None:
        """Plan when nodes have measured themselves, or then at the latest."""
        self.forced, self.due_s, self.awaits_profiles = forced, until_s, True

    def clear(self) -> None:
        """Nothing is to be planned."""
        self.due_s = math.inf

    def take(self) -> bool:
        """Begin what is due; was it forced?"""
        forced = self.forced
        self.due_s = math.inf
        self.forced = self.only_when_idle = self.awaits_profiles = False
        return forced
