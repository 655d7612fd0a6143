"""When a node is short of memory, what it does about it, and how much it may use by then (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edge_node.telemetry.device import LEFT_BYTES
from schemas.limits import LOW_MEMORY_BYTES, MB, OVER_MEMORY_SHARE, STALLED_MEMORY_PERCENT

LEAST_BYTES = 16_000_000
"""With less left the kernel may end the node at any moment: it waits for nobody."""
RELIEF_INTERVAL_S = 10.0
"""Letting go costs reads of the disk later."""
WELL_S = 3.0
"""How long there must be more before a node says that it may use more."""
_WORTH_SAYING = 1.25
_LEAST = 3
"""The level at which the kernel may be about to end processes."""

Budget = Callable[[int, int], int]
"""What a node may use in all, by what it has in memory and what could still be given."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory that could still be given, and for how much of the time all waits for memory."""

    available_bytes: int
    stalled_percent: float | None = None

    @property
    def level(self) -> int:
        """From 0, well, to `_LEAST`."""
        by_room = sum(self.available_bytes < limit for limit in (LEFT_BYTES, LOW_MEMORY_BYTES, LEAST_BYTES))
        return max(by_room, int((self.stalled_percent or 0.0) >= STALLED_MEMORY_PERCENT))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done now."""

    relieve: bool = False
    """Let go of what can be had again."""
    tell: bool = False
    """Send a heartbeat at once."""
    give_up: str = ""
    """Why all layers are to be given up at once; empty: they are not."""
    memory_bytes: int | None = None
    """What the node may use in all from now on; None: as much as before."""


class MemoryRule:
    """Judges what is read of memory, one reading after the other."""

    def __init__(self, budget: Budget, memory_bytes: int) -> None:
        """``memory_bytes``: what the node may use as it begins, and at most."""
        self._budget = budget
        self._most_bytes = self._memory_bytes = memory_bytes
        self._level = 0
        self._is_over = False
        self._relieved_s = -math.inf
        self._relieved: MemoryReading | None = None
        """By which the node let go of what it could, until there is a newer one."""
        self._more_since_s: float | None = None

    def judge(self, reading: MemoryReading, resident_bytes: int, now_s: float, *, has_stages: bool) -> Verdict:
        """What to do.

        Args:
            reading: the newest.
            resident_bytes: what the node has in memory.
            has_stages: does it hold layers?
        """
        if reading is self._relieved:  # it says nothing of what was let go of since
            return Verdict()
        before, was_over = self._level, self._is_over
        self._level = reading.level
        self._is_over = has_stages and resident_bytes > OVER_MEMORY_SHARE * self._memory_bytes
        if self._relieved is not None:
            self._relieved = None
            return self._after_relief(reading, resident_bytes, has_stages=has_stages)
        is_news = self._level > before or self._is_over > was_over
        if (self._level or self._is_over) and (is_news or now_s - self._relieved_s >= RELIEF_INTERVAL_S):
            self._relieved, self._relieved_s, self._more_since_s = reading, now_s, None
            return Verdict(relieve=True)
        tell = self._level != before or self._is_over is not was_over
        return Verdict(tell=tell, memory_bytes=self._grown(reading, resident_bytes, now_s))

    @property
    def awaits_reading(self) -> bool:
        """Is a newer reading wanted soon?"""
        return self._relieved is not None

    def _after_relief(self, reading: MemoryReading, resident_bytes: int, *, has_stages: bool) -> Verdict:
        less_bytes = None
        if self._is_over:
            # The layers take more than was planned: as if the node were smaller by as much, it is given fewer.
            self._most_bytes = self._memory_bytes = less_bytes = self._memory_bytes**2 // resident_bytes
        elif self._level > 1:
            possible_bytes = self._budget(resident_bytes, reading.available_bytes)
            if possible_bytes < self._memory_bytes:
                self._memory_bytes = less_bytes = possible_bytes
        give_up = ""
        if self._level == _LEAST and has_stages:
            left = f"{reading.available_bytes / MB:.0f} MB"
            give_up = f"its system has {left} of memory left, and may end it at any moment"
        return Verdict(tell=True, give_up=give_up, memory_bytes=less_bytes)

    def _grown(self, reading: MemoryReading, resident_bytes: int, now_s: float) -> int | None:
        """What the node may use now that there has been more for a while; None: no more than before."""
        possible_bytes = min(self._budget(resident_bytes, reading.available_bytes), self._most_bytes)
        if self._level or possible_bytes < min(self._most_bytes, _WORTH_SAYING * self._memory_bytes):
            self._more_since_s = None
        elif self._memory_bytes == self._most_bytes:
            pass
        elif self._more_since_s is None:
            self._more_since_s = now_s
        elif now_s - self._more_since_s >= WELL_S:
            self._more_since_s, self._memory_bytes = None, possible_bytes
            return possible_bytes
        return None
