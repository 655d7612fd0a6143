"""The position rule: which frames a stage computes, so that duplicates, repeats and gaps can do no harm.

A stage keeps, per request, the newest attempt it has seen and its valid length: the number of positions whose KV
rows belong to that attempt.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

FIRST_ATTEMPT = 0


class Verdict(enum.Enum):
    """What to do with a frame."""

    COMPUTE = "compute"
    STALE = "stale"
    """An older attempt, or a position that is computed already: drop and count."""
    GAP = "gap"
    """Positions before it, or the state that they are folded into, are missing: ask for a replay from where a run can
    begin."""


@dataclass(slots=True)
class PositionRule:
    """The position rule for one request on one stage."""

    attempt: int = FIRST_ATTEMPT
    valid_length: int = 0
    last_start: int = -1
    """Where the last run of this attempt began. Stage 0 issues every (attempt, position) once and in ascending order,
    so a frame that begins later is new, also where it goes back behind positions that were guessed wrongly or
    reused from an earlier request."""
    lowest_start: int = 0
    """Where the lowest run began since somebody who sends rows on last looked: those behind it have changed."""

    def judge(self, attempt: int, position: int, *, can_begin: bool = True) -> Verdict:
        """Decide about a frame and, where a newer attempt begins, go back to its position.

        ``can_begin``: the state at the position is here, where positions are folded into one.
        """
        if attempt < self.attempt or (attempt == self.attempt and position <= self.last_start):
            return Verdict.STALE
        if position > self.valid_length or not can_begin:
            return Verdict.GAP
        if attempt > self.attempt:
            self.go_back(attempt, position)
        self.valid_length = position
        return Verdict.COMPUTE

    def takes(self, attempt: int, position: int) -> bool:
        """Would a frame be computed, where the state at its position is here?"""
        is_new = attempt > self.attempt or (attempt == self.attempt and position > self.last_start)
        return is_new and position <= self.valid_length

    def go_back(self, attempt: int, position: int) -> None:
        """Go back to ``position``, where a newer attempt begins."""
        self.attempt = attempt
        self.valid_length = position
        self.last_start = position - 1

    def computed(self, count: int) -> None:
        """``count`` positions after the valid length have been computed."""
        self.last_start = self.valid_length
        self.lowest_start = min(self.lowest_start, self.valid_length)
        self.valid_length += count

    def final_length(self, *, guessed: bool) -> int:
        """How many positions have rows that should stay. ``guessed``: the last run verified guesses."""
        return min(self.last_start + 1, self.valid_length) if guessed else self.valid_length
