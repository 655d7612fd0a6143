"""One answer: its prompt, the tokens that came back, and the text they make (pure).

Token i of the answer has position ``prompt_tokens + i``. Tokens are taken strictly in that order: what was seen is
dropped, what comes too early shows that something is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.deployment.plan import LONGER
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import TextStream
from schemas.codec import Flag
from schemas.messages import StreamText

FinishReason = Literal["stop", "length", "cancelled"]
_STOP, _LENGTH = int(Flag.STOP), int(Flag.LENGTH)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as tokens of a model's tokenizer."""

    model: str
    ids: tuple[int, ...]

    def fit(self, context_tokens: int, max_tokens: int, longer: str = LONGER) -> int:
        """The most tokens that an answer may have beside the prompt in a context, no more than ``max_tokens``.

        ``longer``: what would make the context longer.

        ``longer``: what would make the context so.

        Raises:
            PromptRefused: there is no room for any.
        """
        length = len(self.ids)
        if length >= context_tokens:
            raise PromptRefused(
                "too_long",
                f"the prompt has {length} tokens, the context is {context_tokens}: shorten it, or {longer}",
            )
        return min(max_tokens, context_tokens - length)


@dataclass
class Answer:
    """Tokens by position, and their text in pieces."""

    request: str
    prompt: EncodedPrompt
    max_tokens: int
    text: TextStream
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    dropped_tokens: int = 0
    _sequence: int = 0
    _pending_ids: list[int] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt.ids)

    @property
    def next_position(self) -> int:
        """Position of the first token that is missing."""
        return self.prompt_tokens + len(self.tokens)

    @property
    def remaining_tokens(self) -> int:
        """Most tokens that are still to come."""
        return self.max_tokens - len(self.tokens)

    def take(self, position: int, ids: Sequence[int], flags: int) -> tuple[list[StreamText], bool]:
        """Take a frame's tokens.

        Returns:
            Pieces of text to send on, and whether tokens before ``position`` are missing (then nothing was taken).
        """
        if self.finish:
            self.dropped_tokens += len(ids)
            return [], False
        known = self.next_position
        if position > known:
            return [], True
        if position + len(ids) < known:
            self.dropped_tokens += len(ids)
            return [], False
        fresh = list(ids[known - position :])
        self.dropped_tokens += len(ids) - len(fresh)
        stop = bool(flags & _STOP)
        fresh = fresh[: self.max_tokens - len(self.tokens)]
        self.tokens += fresh
        pieces = self._detokenize(fresh[:-1] if stop and fresh else fresh)
        if stop:
            self.finish = "stop"
        elif flags & _LENGTH or len(self.tokens) >= self.max_tokens:
            self.finish = "length"
        if self.finish:
            pieces += self._rest()
        return pieces, False

    def _detokenize(self, ids: Sequence[int]) -> list[StreamText]:
        text = ""
        for token_id in ids:
            self._pending_ids.append(token_id)
            text += self.text.push(token_id)
        return self._piece(text) if text else []

    def _rest(self) -> list[StreamText]:
        text = self.text.finish()
        return self._piece(text) if text or self._pending_ids else []

    def _piece(self, text: str) -> list[StreamText]:
        piece = StreamText(request=self.request, sequence=self._sequence, text=text, token_ids=tuple(self._pending_ids))
        self._sequence += 1
        self._pending_ids.clear()
        return [piece]
