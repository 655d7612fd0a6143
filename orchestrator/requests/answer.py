"""The text of one answer so far, from the tokens of the last stage (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.model.served import TextStream
from schemas.codec import Flag
from schemas.messages import StreamText

FinishReason = Literal["stop", "length", "cancelled"]
_STOP, _LENGTH = int(Flag.STOP), int(Flag.LENGTH)


@dataclass
class Answer:
    """Tokens by position, and their text in pieces."""

    request: str
    prompt_tokens: int
    max_tokens: int
    text: TextStream
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    dropped_tokens: int = 0
    _sequence: int = 0
    _pending_ids: list[int] = field(default_factory=list)

    @property
    def next_position(self) -> int:
        """Position of the first token that is missing."""
        return self.prompt_tokens + len(self.tokens)

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
