"""How likely the tokens of an answer were, as far as that is known (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from schemas.limits import LEAST_LOGPROB, MAX_ALTERNATIVES
from schemas.logprobs import unpack_logprobs
from schemas.messages import LikelyToken, TokenLogprobs


class AnswerLogprobs:
    """What the last stage said of an answer's tokens. It is kept in memory alone: after a restart it is not known.

    A node may send anything: what is no logarithm of a probability, or no token, is left out.
    """

    def __init__(self, token_text: Callable[[int], str], alternatives: int) -> None:
        """``token_text`` gives the text of a token by itself; ``alternatives``: how many likely tokens are wanted."""
        self._token_text = token_text
        self._alternatives = min(alternatives, MAX_ALTERNATIVES)
        self._packed: dict[int, bytes] = {}
        """By the token's place in the answer."""

    @property
    def alternatives(self) -> int:
        return self._alternatives

    def take(self, first: int, packed: Sequence[bytes]) -> None:
        """Note what was said of the tokens from the answer's ``first`` one on."""
        self._packed.update(enumerate(packed, first))

    def of(self, first: int, ids: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        """What there is to tell of these tokens, the answer's from its ``first`` one on."""
        return tuple(self._told(place, token_id) for place, token_id in enumerate(ids, first))

    def _told(self, place: int, token_id: int) -> TokenLogprobs:
        text = self._token_text(token_id)
        packed = self._packed.get(place)
        if packed is None:
            return TokenLogprobs(text=text)
        known = unpack_logprobs(packed)
        likely = [
            LikelyToken(token_id=number, text=self._token_text(number), logprob=value)
            for number, logprob in zip(known.ids, known.values, strict=True)
            if number >= 0 and (value := _logprob(logprob)) is not None
        ]
        return TokenLogprobs(text=text, logprob=_logprob(known.token), top=tuple(likely[: self._alternatives]))


def _logprob(number: float) -> float | None:
    """The number, or None if it is no logarithm of a probability."""
    return None if math.isnan(number) else min(max(number, LEAST_LOGPROB), 0.0)
