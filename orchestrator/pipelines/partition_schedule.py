"""When the fleet is to be divided into pipelines (pure)."""

from __future__ import annotations

import math

from orchestrator.replanning.due_date import DueDate


class PartitionSchedule(DueDate):
    """The date of the next division: once the fleet has settled, if it is not the one that was divided last."""

    def __init__(self, settle_s: float) -> None:
        super().__init__()
        self._settle_s = settle_s
        self._seen: object = None
        self._done: object = None
        self.job: int | None = None
        """The worker is at it."""

    @property
    def pending(self) -> bool:
        """Is a division under way, or due?"""
        return self.job is not None or self.is_set

    def force(self, now_s: float) -> None:
        """Divide as soon as possible; a small gain is enough then."""
        self.forced = True
        self.put(now_s)

    def notice(self, fleet: object, now_s: float) -> None:
        """Note what there is to divide now; ``fleet`` is any value that is equal when nothing has changed."""
        if fleet == self._seen:
            return
        self._seen = fleet
        if self.forced:
            return
        if fleet != self._done:
            self.put(now_s + self._settle_s)
        else:
            self.clear()

    def is_due(self, now_s: float) -> bool:
        """Is a division due, and the worker not at work on one?"""
        return self.job is None and now_s >= self.due_s

    def wait_until(self, until_s: float) -> None:
        """Put the division off until this time, by which something that is missing will have come."""
        self.due_s = until_s

    def begin(self, job: int | None) -> None:
        """Begin to divide the fleet as last noticed; without a ``job`` for the worker that is done at once."""
        self.job = job
        self._done = self._seen
        self.clear()

    def end(self) -> bool:
        """End a division, as the worker has answered; says whether somebody had forced it."""
        self.job = None
        return self.take_forced()

    def next_deadline_s(self) -> float:
        """When ``is_due`` becomes true by time alone."""
        return self.due_s if self.job is None else math.inf
