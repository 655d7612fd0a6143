"""The times at which a node repeats its known answers (pure)."""

from __future__ import annotations

import math

SLEPT_S = 15.0
"""So much more than between two heartbeats, by the wall clock: the device, or this process, was stopped."""
_PATIENCE = 4
"""Intervals without an idle moment after which requests wait for a check."""


class CheckSchedule:
    """The next check: now and then while no request is open, at once after the device slept."""

    def __init__(self, interval_s: float) -> None:
        """``interval_s``: between two checks of an idle node; 0: none for the sake of time alone."""
        self._interval_s = interval_s or math.inf
        self._due_s = math.inf
        self._is_urgent = False
        self._wall_s: float | None = None

    def heartbeat(self, wall_s: float, now_s: float) -> None:
        """Look at both clocks, once in a heartbeat; the monotonic one may have stood still while the device slept."""
        if self._wall_s is not None and wall_s - self._wall_s >= SLEPT_S:
            self._is_urgent = True
        elif self._due_s == math.inf:
            self.checked(now_s)
        self._wall_s = wall_s

    def is_due(self, now_s: float, *, idle: bool) -> bool:
        """Is a check to be made now? ``idle``: no request is open."""
        return self._is_urgent or now_s >= self._due_s + (0.0 if idle else _PATIENCE * self._interval_s)

    def checked(self, now_s: float) -> None:
        """Put the next check off by an interval: one was made."""
        self._is_urgent, self._due_s = False, now_s + self._interval_s
