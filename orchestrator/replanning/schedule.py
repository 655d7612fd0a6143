"""When the next plan is to be made (pure)."""

from __future__ import annotations

from orchestrator.replanning.due_date import DueDate


class ReplanSchedule(DueDate):
    """The date of a pipeline's next plan."""

    def __init__(self) -> None:
        super().__init__()
        self.only_when_idle = False
        """Open requests are not to be disturbed for it."""
        self.awaits_profiles = False
        """It waits for figures of nodes."""

    def start(self, not_before_s: float) -> None:
        """Plan at this time, and not before it."""
        super().start(not_before_s)
        self.put(not_before_s)

    def ask(self, due_s: float, *, forced: bool = False) -> None:
        """Plan at this time, though requests are open."""
        self.forced = self.forced or forced
        self.only_when_idle = False
        self.put(due_s)

    def wait_until_idle(self, now_s: float) -> None:
        """Plan once no request is open."""
        self.only_when_idle = True
        self.hurry(now_s)

    def wait_for_profiles(self, until_s: float, *, forced: bool) -> None:
        """Plan when nodes have measured themselves, or at this time at the latest."""
        self.forced, self.due_s, self.awaits_profiles = forced, until_s, True

    def take(self) -> bool:
        """Begin the plan that is due; was it forced?"""
        self.clear()
        self.only_when_idle = self.awaits_profiles = False
        return self.take_forced()
