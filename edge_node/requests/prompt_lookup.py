"""Guesses of the next tokens by prompt look-up: what followed the last time the same few tokens stood in the text.

Summaries, code edits and tables repeat their source, and there several guesses are right at once; a guess is verified
in the same round trip that the next token takes anyway (speculative decoding, arXiv 2211.17192; the look-up is
"prompt lookup decoding"). Where guesses do not pay they stop by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.ewma import ewma

_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2
_WEIGHT = 0.15
_FIRST_ACCEPTANCE = 0.7
_COST_PER_GUESS = 0.3
"""Assumed until measured: what one guess more adds to a step, as a share of a step without."""
_PAYS_FROM = 1.1
_RECOVERY = 0.004
"""How fast a lost confidence comes back, per step without a guess."""


@dataclass(slots=True)
class PromptLookup:
    """One request's guesses. ``longest`` is the most tokens to guess at once."""

    longest: int
    ids: list[int]
    """The prompt and all tokens so far."""
    _followers: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Where the text went on after these tokens, the last time they stood there."""
    _indexed: int = 0
    _acceptance: float = _FIRST_ACCEPTANCE
    _plain_step_s: float | None = None
    _guessed_step_s: dict[int, float] = field(default_factory=dict)

    def guess(self) -> Sequence[int]:
        """A guess of the next tokens, as long as is worth a try."""
        self._index()
        start = self._match()
        length = self._worthwhile_length()
        if start is None or length == 0:
            self._acceptance = min(_FIRST_ACCEPTANCE, self._acceptance + _RECOVERY)
            return ()
        return self.ids[start : start + length]

    def _index(self) -> None:
        """Note every group of tokens but those at the very end, which nothing follows yet."""
        for stop in range(max(self._indexed, _SHORTEST_MATCH), len(self.ids)):
            for length in range(_SHORTEST_MATCH, min(_LONGEST_MATCH, stop) + 1):
                self._followers[tuple(self.ids[stop - length : stop])] = stop
        self._indexed = max(self._indexed, len(self.ids))

    def _match(self) -> int | None:
        for length in range(min(_LONGEST_MATCH, len(self.ids)), _SHORTEST_MATCH - 1, -1):
            start = self._followers.get(tuple(self.ids[-length:]))
            if start is not None:
                return start
        return None

    def _worthwhile_length(self) -> int:
        """The number of guesses with the best expected tokens per second; 0 where none is clearly better than none."""
        best_length, best_gain = 0, _PAYS_FROM
        for length in range(1, self.longest + 1):
            expected_tokens = sum(self._acceptance**power for power in range(length + 1))
            gain = expected_tokens / self._relative_cost(length)
            if gain > best_gain:
                best_length, best_gain = length, gain
        return best_length

    def _relative_cost(self, length: int) -> float:
        """Time of a step with ``length`` guesses over one without."""
        if self._plain_step_s is None or not self._guessed_step_s:
            return 1 + _COST_PER_GUESS * length
        nearest = min(self._guessed_step_s, key=lambda known: abs(known - length))
        per_guess = (self._guessed_step_s[nearest] / self._plain_step_s - 1) / nearest
        return 1 + max(per_guess, 0.0) * length

    def chosen(self, position: int, tokens: Sequence[int], guessed: int, step_s: float | None) -> None:
        """Learn from tokens chosen from ``position`` on, in a step of ``step_s`` that verified ``guessed`` guesses."""
        self.ids[position:] = tokens
        if guessed:
            accepted = len(tokens) - 1
            for outcome in [1.0] * accepted + ([0.0] if accepted < guessed else []):
                self._acceptance = ewma(self._acceptance, outcome, _WEIGHT)
        if step_s is None:
            return
        if guessed == 0:
            self._plain_step_s = ewma(self._plain_step_s, step_s, _WEIGHT)
        else:
            self._guessed_step_s[guessed] = ewma(self._guessed_step_s.get(guessed), step_s, _WEIGHT)
