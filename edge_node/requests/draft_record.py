"""What is known of a stage's draft model: how often it is right, and what a token of it takes (pure)."""

from __future__ import annotations

from edge_node.requests.acceptance import Acceptance
from schemas.ewma import ewma

_EXPECTED = 0.6
_WEIGHT = 0.15
_TRIED_AGAIN_AFTER = 64
"""Tokens of answers after which a draft model that does not pay is asked for one more."""
_LONGEST_PAUSE = 1024
"""So many at the most: the pause doubles with each time that it still does not pay."""


class DraftRecord:
    """Of all requests of a stage."""

    def __init__(self) -> None:
        self.acceptance = Acceptance.expected(_EXPECTED)
        self.token_s: float | None = None
        """What one token takes; None until that is measured."""
        self._pause = self._left = 0

    def ran(self, token_s: float) -> None:
        """Take in what a run of one position took."""
        self.token_s = ewma(self.token_s, token_s, _WEIGHT)

    @property
    def pays(self) -> bool:
        """Did it pay when that was looked at last, or is it not known yet?"""
        return self._pause == 0

    def judged(self, tokens: int, *, pays: bool) -> bool:
        """Note, with so many tokens of an answer, whether guesses are worth their time. Where they are not: is it time
        to try again?"""
        if pays:
            self._pause = self._left = 0
            return True
        self._left -= tokens
        if self._pause and self._left > 0:
            return False
        is_first = self._pause == 0
        self._pause = _TRIED_AGAIN_AFTER if is_first else min(2 * self._pause, _LONGEST_PAUSE)
        self._left = self._pause
        return not is_first
