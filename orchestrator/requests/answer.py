"""One answer: its prompt, the tokens that came back, and the text they make (pure).

Token i of the answer has position ``prompt_tokens + i``. Tokens are taken strictly in that order: what was seen is
dropped, what comes too early shows that something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.deployment.plan import LONGER
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import TextStream
from schemas.codec import Flag
from schemas.messages import FinishReason, RequestAnswer, StreamEnd, StreamError, StreamText

_STOP, _LENGTH = int(Flag.STOP), int(Flag.LENGTH)
_REPEATED_TOKENS = 512
"""Behind one piece, at the most, of what is sent once more."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as tokens of a model's tokenizer."""

    model: str
    ids: tuple[int, ...]

    def fit(self, context_tokens: int, max_tokens: int, longer: str = LONGER) -> int:
        """The most tokens that an answer may have beside the prompt in a context, no more than ``max_tokens``.

        ``longer``: what would make the context longer.

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
class AnswerText:
    """The text of one answer in pieces, each with its place in the whole."""

    request: str
    stream: TextStream
    tokens: int = 0
    """Behind all pieces so far."""
    characters: int = 0
    _pending_ids: list[int] = field(default_factory=list)

    def push(self, ids: Sequence[int]) -> list[StreamText]:
        """The piece that these tokens complete; none while a character is incomplete.

        It ends with the last token that has completed a character, so that its place does not depend on how tokens
        came.
        """
        text, ends = "", len(self._pending_ids)
        self._pending_ids += ids
        for number, token_id in enumerate(ids, ends + 1):
            if completed := self.stream.push(token_id):
                text, ends = text + completed, number
        return self._piece(text, ends) if text else []

    def finish(self) -> list[StreamText]:
        """The piece that is left at the end of the answer, if there is one."""
        text = self.stream.finish()
        return self._piece(text, len(self._pending_ids)) if text or self._pending_ids else []

    def _piece(self, text: str, tokens: int) -> list[StreamText]:
        piece = StreamText(
            request=self.request,
            first_token=self.tokens,
            first_character=self.characters,
            text=text,
            token_ids=tuple(self._pending_ids[:tokens]),
        )
        self.tokens += tokens
        self.characters += len(text)
        del self._pending_ids[:tokens]
        return [piece]


@dataclass
class Answer:
    """Tokens by position, and their text in pieces. ``new_text`` makes the stream that turns tokens into text."""

    request: str
    prompt: EncodedPrompt
    max_tokens: int
    new_text: Callable[[], TextStream]
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    dropped_tokens: int = 0
    text: AnswerText = field(init=False)

    def __post_init__(self) -> None:
        self.text = AnswerText(self.request, self.new_text())
        self.text.push(self.tokens)

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
        fresh = fresh[: self.max_tokens - len(self.tokens)]
        self.tokens += fresh
        if flags & _STOP:
            self.finish = "stop"
        elif flags & _LENGTH or len(self.tokens) >= self.max_tokens:
            self.finish = "length"
        pieces = self.text.push(self._shown(fresh))
        return pieces + (self.text.finish() if self.finish else []), False

    def _shown(self, ids: Sequence[int]) -> Sequence[int]:
        """Of an answer's newest tokens those that are text: the one that ended it is none."""
        return ids[:-1] if self.finish == "stop" else ids

    def text_after(self, tokens: int) -> list[StreamText]:
        """The text behind the first ``tokens`` tokens once more, for a reader who has missed it."""
        text, shown = AnswerText(self.request, self.new_text()), self._shown(self.tokens)
        text.push(shown[:tokens])
        pieces = [
            piece
            for first in range(tokens, len(shown), _REPEATED_TOKENS)
            for piece in text.push(shown[first : first + _REPEATED_TOKENS])
        ]
        return pieces + (text.finish() if self.finish else [])


def whole_answer(answer: Answer | None, end: StreamEnd | StreamError) -> RequestAnswer | StreamError:
    """All that was told of an answer that has ended, in one message."""
    if isinstance(end, StreamError):
        return end
    pieces = answer.text_after(0) if answer else []
    return RequestAnswer(
        request=end.request,
        text="".join(piece.text for piece in pieces),
        finish_reason=end.finish_reason,
        model=answer.prompt.model if answer else None,
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        ttft_s=end.ttft_s,
        total_s=end.total_s,
    )
