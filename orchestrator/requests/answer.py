"""One answer: its prompt, the tokens that came back, and the text they make (pure).

Token i of the answer has position ``prompt_tokens + i``. Tokens are taken strictly in that order: what was seen is
dropped, what comes too early shows that something is missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.deployment.plan import LONGER
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import TextStream
from orchestrator.requests.answer_form import AnswerForm
from orchestrator.requests.answer_logprobs import AnswerLogprobs
from orchestrator.requests.answer_record import AnswerRecord
from orchestrator.requests.answer_text import AnswerText, begin_text
from schemas.codec import Flag
from schemas.messages import FinishReason, StreamText

_STOP, _LENGTH = int(Flag.STOP), int(Flag.LENGTH)


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
class Answer:
    """Tokens by position, and their text in pieces, up to the first of the ``stop`` strings.

    ``new_text`` makes the stream that turns tokens of the vocabulary into text.
    """

    request: str
    prompt: EncodedPrompt
    max_tokens: int
    vocab_size: int
    new_text: Callable[[], TextStream]
    tokens: list[int] = field(default_factory=list)
    stop: Sequence[str] = ()
    logprobs: AnswerLogprobs | None = None
    """How likely the tokens were, where that was asked for."""
    form: AnswerForm | None = None
    """What the answer is bound to, behind its tokens."""
    finish: FinishReason | None = None
    dropped_tokens: int = 0
    text: AnswerText = field(init=False)
    _ended_by_token: bool = False
    """Is the last token one that ends answers, and no text?"""

    def __post_init__(self) -> None:
        self.text = self._begin_text()
        self.text.push(self.tokens)
        if self.text.stopped_at is not None:  # made once more, the token that completes the stop string ends the answer
            del self.tokens[self.text.stopped_at - 1 :]
            self.text = self._begin_text()
            self.text.push(self.tokens)
            if self.form:
                self.form.begin(self.tokens)

    def _begin_text(self) -> AnswerText:
        return begin_text(self.request, self.new_text, self.stop, self.logprobs)

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

    def knows(self, ids: Iterable[int]) -> bool:
        """Are these tokens of the model's vocabulary? A last stage may send anything."""
        return all(0 <= token < self.vocab_size for token in ids)

    def take(
        self, position: int, ids: Sequence[int], flags: int, logprobs: Sequence[bytes] = ()
    ) -> tuple[list[StreamText], bool]:
        """Take a frame's tokens; ``logprobs``: how likely they were, packed, if that is known.

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
        if self.form:
            fresh = list(self.form.follow(fresh))
        if self.logprobs and len(logprobs) == len(ids):
            self.logprobs.take(len(self.tokens), logprobs[known - position :])
        self.tokens += fresh
        if self.form and self.form.failure:
            return [], False
        if flags & _STOP:
            self.finish, self._ended_by_token = "stop", True
        elif self.form and self.form.is_complete:
            self.finish = "stop"
        elif flags & _LENGTH or len(self.tokens) >= self.max_tokens:
            self.finish = "length"
        pieces = self.text.push(self._shown(fresh))
        pieces += self.text.finish() if self.finish else []
        if self.text.stopped_at is not None:
            self.finish, self._ended_by_token = "stop", False
            del self.tokens[self.text.stopped_at :]
        return pieces, False

    def cut(self) -> list[StreamText]:
        """End the answer where it is, for want of room; the piece of text that is left."""
        self.finish = "length"
        return self.text.finish()

    def _shown(self, ids: Sequence[int]) -> Sequence[int]:
        """Of an answer's newest tokens those that are text: the one that ended it may be none."""
        return ids[:-1] if self._ended_by_token else ids

    def text_after(self, tokens: int) -> list[StreamText]:
        """The text behind the first ``tokens`` tokens once more, for a reader who has missed it."""
        return self.record().text_after(tokens)

    def record(self) -> AnswerRecord:
        """What there is of it, without what only further tokens need."""
        return AnswerRecord(
            request=self.request,
            model=self.prompt.model,
            ids=array("i", self._shown(self.tokens)),
            new_text=self.new_text,
            stop=self.stop,
            logprobs=self.logprobs,
            has_ended=self.finish is not None,
        )
