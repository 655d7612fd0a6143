"""What a draft model guesses of one request: how many guesses are wanted of it, and how many were right (pure).

It guesses token by token while the ring computes: a token goes out as soon as it is chosen, and the guesses of what
follows it behind it, once there are as many as are worth their time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from edge_node.requests.draft_record import DraftRecord
from edge_node.requests.guess_limits import GuessLimits
from edge_node.requests.round_times import RoundTimes, Worth


class DraftGuesses:
    """Of one request."""

    def __init__(self, record: DraftRecord, *, context_tokens: int, window: int, windows: int) -> None:
        """What it needs of one request.

        Args:
            record: of all requests of the stage.
            context_tokens: of the draft model.
            window: most guesses in one run, behind its first token.
            windows: most runs with guesses on their way.
        """
        self.record = record
        self.wanted = 1 if record.pays else 0
        """So long the chain is to become. At first the model takes in the prompt, and its guess is only compared."""
        self.cost_each = 0.0
        """As `Worth.cost_each`, of those that are wanted."""
        self.sends = False
        """Are its guesses to be verified? Else it is tried whether they would have been right."""
        self._context_tokens = context_tokens
        self._window, self._windows = window, windows
        self._said: dict[int, int] = {}
        """What it has guessed, by position."""

    def takes(self, tokens: int) -> bool:
        """Has it room for a text of so many tokens?"""
        return tokens <= self._context_tokens

    def said(self, position: int, token: int) -> None:
        """Note its guess for a position, behind all that is before."""
        self._said[position] = token

    def forget(self) -> None:
        """The text went on in another way than it was guessed from."""
        self._said.clear()

    def compare(self, first: int, tokens: Sequence[int]) -> None:
        """Learn from tokens that were chosen from position ``first`` on."""
        for position, token in enumerate(tokens, first):
            said = self._said.pop(position, None)
            if said is not None:
                self.record.acceptance.learn(is_right=said == token)
                if said != token:
                    self.forget()
                    break

    def choose(self, other: Worth, chosen: int, times: RoundTimes, limits: GuessLimits, credit: float) -> bool:
        """Decide how many guesses are wanted behind tokens of which ``chosen`` came last; False where ``other`` guesses
        are better, or none. ``credit``: what they may cost, as in `RoundTimes.worthwhile`."""
        record = self.record
        self.wanted, self.sends = 0, False
        if limits.most == 0 or not times.are_known:
            return False
        if record.token_s is None:
            self.wanted = 1
            return False
        worth = times.worthwhile(
            itertools.repeat(record.acceptance.rate),
            window=self._window,
            windows=min(limits.windows, self._windows),
            most=limits.most,
            credit=math.inf,
            each_s=record.token_s,
        )
        if not record.judged(chosen, pays=worth.guesses > 0):
            return False
        if worth.guesses == 0:
            self.wanted = 1
            return False
        count = min(worth.guesses, int(credit / worth.cost_each) if worth.cost_each else worth.guesses)
        if worth.gain <= other.gain or count == 0:
            return False
        self.wanted, self.sends, self.cost_each = count, True, worth.cost_each
        return True
