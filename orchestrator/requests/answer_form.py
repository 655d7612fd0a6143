"""The form that one answer is bound to: how far it is, and what the last stage was told of it (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.model.served import AnswerGrammar, Expectation
from orchestrator.requests.told_masks import ToldMasks
from schemas.limits import MAX_EXPECTED_TOKENS
from schemas.messages import AllowTokens, Epoch, TokenMask

BROKEN = "the last stage has chosen a token that the form of the answer does not allow"


class AnswerForm:
    """Follows the tokens of one answer."""

    def __init__(self, grammar: AnswerGrammar) -> None:
        self._grammar = grammar
        self.vocab_size = grammar.vocab_size
        self._state = grammar.begin()
        self._told: tuple[int, Expectation] | None = None
        """The newest that the last stage was told, and from which token of the answer on."""
        self.failure = ""
        """Why the answer can't go on; empty while it can."""

    @classmethod
    def behind(cls, grammar: AnswerGrammar, tokens: Sequence[int]) -> tuple[AnswerForm, list[int]]:
        """The form of an answer that goes on behind these tokens, and those of them that are kept.

        Of an answer that is complete the last one is made once more, which ends it.
        """
        form = cls(grammar)
        known = list(form.follow(tokens))
        if known and form.is_complete:
            known.pop()
        form.begin(known)
        return form, known

    def begin(self, tokens: Sequence[int]) -> None:
        """Begin anew, behind these tokens of the answer."""
        self._state, self._told, self.failure = self._grammar.begin(), None, ""
        self.follow(tokens)

    def follow(self, ids: Sequence[int]) -> Sequence[int]:
        """Go on behind these tokens, the answer's next ones; returns those that belong to it.

        A token that may not come ends the answer: `failure` says so.
        """
        taken = self._state.take(ids)
        if taken < len(ids) and not self._state.is_complete:
            self.failure = BROKEN
        return ids[:taken]

    @property
    def is_complete(self) -> bool:
        """Can nothing follow any more?"""
        return self._state.is_complete

    def reopened(self) -> None:
        """Note that the last stage is another one, or has been told nothing yet."""
        self._told = None

    def tell(
        self,
        request: str,
        epoch: Epoch,
        *,
        prompt_tokens: int,
        tokens: Sequence[int],
        guess: Sequence[int] = (),
        known: ToldMasks | None = None,
        since: int | None = None,
    ) -> AllowTokens | None:
        """The message with what may come behind the ``tokens`` of an answer; None if that has been told.

        Args:
            request: the answer's.
            epoch: whose last stage is told.
            prompt_tokens: how long the prompt is.
            tokens: the answer so far.
            guess: of the last stage, what may follow.
            known: the sets that it knows; with None it is told all, whatever it was told before.
            since: it lacks what may come from this token of the answer on, which is known by now.
        """
        if known is not None and since is None and self._covers(tokens, guess):
            return None
        found = self._state.expect(guess)
        if found.failure:
            self.failure = f"the form of the answer has led to where {found.failure}"
            return None
        first = len(tokens) if since is None else max(0, since)
        behind = tokens[first:]
        expected = (*behind, *found.expected)[:MAX_EXPECTED_TOKENS]
        sets = (*(None for _ in behind), *found.masks)[: len(expected) + 1]
        if len(sets) > len(expected) and sets[-1] is None:
            sets = sets[:-1]
        self._told = (first, Expectation(expected, sets))
        masks = tuple(TokenMask() if one is None else (known or _knows_none(self._grammar)).tell(one) for one in sets)
        return AllowTokens(
            request=request, epoch=epoch, position=prompt_tokens + first, expected=expected, masks=masks
        )  # fmt: skip

    def _covers(self, tokens: Sequence[int], guess: Sequence[int]) -> bool:
        """Was what may come next, along this guess, told already?"""
        if self._told is None:
            return False
        first, told = self._told
        ahead = len(tokens) - first
        if not 0 <= ahead < len(told.masks) or tuple(tokens[first:]) != told.expected[:ahead]:
            return False
        rest = told.expected[ahead:]
        return len(guess) <= len(rest) and rest[: len(guess)] == tuple(guess)


def _knows_none(grammar: AnswerGrammar) -> ToldMasks:
    return ToldMasks(grammar.vocab_size)
