"""When the fleet is to be divided into pipelines (pure)."""

from __future__ import annotations

import math


class PartitionSchedule:
    """When the fleet is to be divided: once it has settled, whenever it is not the one that was divided last."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._not_before_s = 0.0
        self._seen: object = None
        self._done: object = None
        self._due_s = math.inf
        self.job: int | None = None
        """The worker is at it."""
        self.forced = False

    @property
    def pending(self) -> bool:
        """Is it under way, or due?"""
        return self.job is not None or self._due_s < math.inf

    def start(self, not_before_s: float) -> None:
        """Do nothing before this."""
        self._not_before_s = not_before_s

    def force(self, now_s: float) -> None:
        """Divide as soon as possible; what gains a little is enough."""
        self.forced = True
        self._due_s = max(now_s, self._not_before_s)

    def notice(self, fleet: object, now_s: float) -> None:
        """What there is to divide now; ``fleet`` is anything that is equal when nothing has changed."""
        if fleet != self._seen:
            self._seen = fleet
            if not self.forced:
                changed = fleet != self._done
                self._due_s = max(now_s + self._settle_s, self._not_before_s) if changed else math.inf

    def is_due(self, now_s: float) -> bool:
        """Is it time, and the worker not at it?"""
        return self.job is None and now_s >= self._due_s

    def wait_until(self, until_s: float) -> None:
        """Something is missing that will have come by then."""
        self._due_s = until_s

    def begin(self, job: int | None) -> None:
        """What was last noticed is being divided; without a job, it is."""
        self.job = job
        self._done = self._seen
        self._due_s = math.inf

    def end(self) -> bool:
        """The worker has answered.

        Returns:
            Whether somebody had forced it.
        """
        self.job = None
        forced, self.forced = self.forced, False
        return forced

    def next_deadline_s(self) -> float:
        """When ``is_due`` becomes true by time alone."""
        return self._due_s if self.job is None else math.inf
