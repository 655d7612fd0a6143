"""What a round of a ring takes, with guesses and without, and so how many tokens are worth guessing (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edge_node.requests.window_length import WindowLength
from schemas.ewma import ewma

_WEIGHT = 0.15
_COST_PER_GUESS = 0.25
"""What one guess more adds to a round, as a share of a round without, until that is measured."""
_COST_BEHIND = 0.4
"""By how much a window comes later than the one before it, as a share of a round without guesses, likewise."""
_PAYS_FROM = 1.2
"""Guesses are made where they should be so much faster than none: how likely they are is not known well."""
_UNLIKELY = 0.05
_LONGEST = 3.0
"""A round counts for so many times what one takes at the most."""


class Worth(NamedTuple):
    """What guesses are worth."""

    guesses: int
    """With so many there are most tokens per second; 0 where none is clearly better than none."""
    gain: float
    """Expected tokens per second, over those without guesses."""
    cost_each: float
    """By how much each makes the round longer, if it is wrong, as a share of one without guesses."""


class RoundTimes:
    """Measured by the last stage, of all its requests."""

    def __init__(self) -> None:
        self.length = WindowLength()
        self._plain_s: float | None = None
        self._per_guess: float | None = None
        self._behind: float | None = None

    @property
    def are_known(self) -> bool:
        """Is it known what a round without guesses takes?"""
        return self._plain_s is not None

    def round(self, guesses: int, took_s: float) -> None:
        """Take in how long a round took that verified so many guesses, from the tokens before to its own."""
        if guesses == 0:
            # What got lost on the way says nothing of the rounds after it.
            known_s = took_s if self._plain_s is None else self._plain_s
            self._plain_s = ewma(self._plain_s, min(took_s, _LONGEST * known_s), _WEIGHT)
        elif self._plain_s is not None:
            cost = max(0.0, (took_s / self._plain_s - 1) / guesses)
            self._per_guess = ewma(self._per_guess, cost, _WEIGHT)

    def behind(self, took_s: float) -> None:
        """Take in by how much a window came later than the one before it, that was issued together with it."""
        if self._plain_s is not None:
            self._behind = ewma(self._behind, took_s / self._plain_s, _WEIGHT)

    def worthwhile(
        self, chances: Iterator[float], *, window: int, windows: int, most: int, credit: float, each_s: float = 0.0
    ) -> Worth:
        """The number of guesses with the most expected tokens per second.

        Args:
            chances: for each guess, how likely it is right if those before it are.
            window: most guesses behind the first token of a window.
            windows: most windows that may be on their way.
            most: most guesses.
            credit: what all of them may cost if they are wrong, in rounds without guesses; as long as there is any, one
                guess may cost more.
            each_s: what it takes to make a guess, while the token before all of them is on its way.
        """
        best, best_rate = Worth(0, 1.0, 0.0), _PAYS_FROM
        per_guess = _COST_PER_GUESS if self._per_guess is None else self._per_guess
        behind = _COST_BEHIND if self._behind is None else self._behind
        each = each_s / self._plain_s if self._plain_s else 0.0
        likely, tokens = 1.0, 1.0
        for count in range(1, min(most, (window + 1) * windows - 1) + 1):
            likely *= next(chances)
            if likely < _UNLIKELY:
                break
            tokens += likely
            positions = self.length.positions(1 + count, most=1 + window, windows=windows)
            takes = 1.0 + per_guess * min(count, positions - 1) + behind * (count // positions) + count * each
            if takes - 1.0 > credit and (count > 1 or credit <= 0.0):
                break
            if tokens / takes > best_rate:
                best_rate = tokens / takes
                best = Worth(count, best_rate, (takes - 1.0) / count)
        return best
