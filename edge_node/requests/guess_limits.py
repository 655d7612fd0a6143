"""How much may be guessed in one answer now (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.work import MAX_LOGITS
from schemas.limits import MAX_GUESSED_WINDOWS


@dataclass(frozen=True, slots=True)
class GuessLimits:
    """Of one answer, from one position on."""

    most: int
    """Tokens that may be guessed."""
    most_certain: int
    """The longest guess that can't be wrong: a run has room for no more."""
    windows: int
    """Runs with guesses that may be on their way."""

    @classmethod
    def of(cls, *, nodes: int, requests: int, room: int, chunk_tokens: int) -> GuessLimits:
        """With so many open requests, and room for so many tokens more in the answer.

        With more requests than nodes none of these is idle: a wrong guess would cost somebody else's time.
        """
        return cls(
            most=max(0, room) if requests <= nodes else 0,
            most_certain=min(MAX_LOGITS - 1, chunk_tokens - 1, max(0, room)),
            windows=MAX_GUESSED_WINDOWS if requests == 1 else nodes // requests,
        )
