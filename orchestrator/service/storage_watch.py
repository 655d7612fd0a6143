"""What operators are told of a database that can't be written (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.effects import Effect, Note

_WELL_S = 10.0
"""On a disk that is full some writes succeed: only after so long without a failure it is over."""


@dataclass
class StorageWatch:
    """Tells of a failure once, and when it is over."""

    well: str
    """What is told then."""
    _failed_s: float = -math.inf
    _told: bool = False

    def look(self, failure: str, now_s: float) -> list[Effect]:
        """Take in why the last write came to nothing; empty if it did not."""
        if failure:
            self._failed_s = now_s
            if not self._told:
                self._told = True
                return [Note(failure, warning=True, kind="storage")]
        elif self._told and now_s >= self._failed_s + _WELL_S:
            self._told = False
            return [Note(self.well, kind="storage")]
        return []
