"""Numbers for the worker's jobs, and who asked for each (pure)."""

from __future__ import annotations

import itertools


class Jobs:
    """Numbers of jobs, for all who ask the worker. Each has one job at a time; an earlier one's result is nobody's."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._current: dict[str, int] = {}
        self._owners: dict[int, str] = {}

    def begin(self, owner: str) -> int:
        """A number for the owner's next job."""
        self._owners.pop(self._current.get(owner, 0), None)
        job = self._current[owner] = next(self._numbers)
        self._owners[job] = owner
        return job

    def owner(self, job: int) -> str | None:
        """Who waits for this job's result; None when nobody does any more."""
        return self._owners.get(job)
