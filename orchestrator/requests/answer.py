"""One answer: its prompt, the tokens that came back, and the text they make (pure).

Token i of the answer has position ``prompt_tokens + i``. Tokens are taken strictly in that order: what was seen is
dropped, what comes too early shows that something is missing.

Text and tokens are told together, in parts: the tokens that have completed some characters, and these. What may be the
beginning of a stop string is held back, whole parts of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.deployment.plan import LONGER
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import TextStream
from orchestrator.requests.answer_form import AnswerForm
from orchestrator.requests.answer_logprobs import AnswerLogprobs
from orchestrator.requests.stop_strings import StopStrings
from schemas.codec import Flag
from schemas.messages import FinishReason, StreamText

_STOP, _LENGTH = int(Flag.STOP), int(Flag.LENGTH)
_MOST_TOKENS = 512
"""Behind one piece; of a token whose alternatives are told each one counts."""


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
class _Part:
    """Tokens, and the characters that the last of them has completed."""

    ids: Sequence[int]
    text: str


@dataclass
class AnswerText:
    """The text of one answer, up to the first of its ``stop`` strings; ``logprobs`` are told with its tokens."""

    request: str
    stream: TextStream
    stop: StopStrings | None = None
    logprobs: AnswerLogprobs | None = None
    tokens: int = 0
    """Behind all pieces so far."""
    characters: int = 0
    stopped_at: int | None = None
    """How many tokens it took to complete a stop string; None while there is none."""
    _taken: int = 0
    _ids: list[int] = field(default_factory=list)
    """Of a character that is incomplete."""
    _held: deque[_Part] = field(default_factory=deque)
    _held_characters: int = 0

    def push(self, ids: Iterable[int]) -> list[StreamText]:
        """The pieces that these tokens complete, usually one; none while a character is incomplete.

        A piece ends with a token that has completed a character, so that places do not depend on how tokens came.
        """
        return self._pieces(self._parts(ids))

    def finish(self) -> list[StreamText]:
        """The piece that is left at the end of the answer, if there is one."""
        return self._pieces(self._rest())

    def after(self, tokens: int, ids: Iterable[int], *, is_end: bool) -> list[StreamText]:
        """Of an answer of these tokens the pieces behind the first ``tokens`` ones; for a text that has none yet."""
        parts = self._parts(ids)
        parts += self._rest() if is_end else []
        told = 0
        while told < len(parts) and parts[told].ids and self.tokens + len(parts[told].ids) <= tokens:
            self._count(parts[told])
            told += 1
        return self._pieces(parts[told:])

    def _parts(self, ids: Iterable[int]) -> list[_Part]:
        """The parts that more tokens have settled."""
        for token_id in ids:
            self._taken += 1
            self._ids.append(token_id)
            if completed := self.stream.push(token_id):
                self._add(completed)
                if self.stopped_at is not None:
                    break
        return self._released(self.stop.held if self.stop else 0)

    def _rest(self) -> list[_Part]:
        """The parts that are left at the end."""
        if self.stopped_at is None:
            text = self.stream.finish()
            if text or self._ids:
                self._add(text)
        return self._released(0)

    def _add(self, text: str) -> None:
        self._held.append(_Part(self._ids, text))
        self._held_characters += len(text)
        self._ids = []
        if self.stop and (beyond := self.stop.find(text)) is not None:
            self._cut(beyond)

    def _cut(self, characters: int) -> None:
        """Drop characters at the end, and the tokens that only they came from."""
        self.stopped_at = self._taken
        self._held_characters -= characters
        while characters:
            last = self._held.pop()
            left = last.text[: max(0, len(last.text) - characters)]
            characters -= len(last.text) - len(left)
            if left:
                self._held.append(_Part(last.ids, left))

    def _released(self, held: int) -> list[_Part]:
        """The parts before the last ``held`` characters; once there is a stop string all parts are."""
        held = held if self.stopped_at is None else 0
        parts: list[_Part] = []
        while self._held and self._held_characters - len(self._held[0].text) >= held:
            parts.append(self._held.popleft())
            self._held_characters -= len(parts[-1].text)
        return parts

    def _pieces(self, parts: Sequence[_Part]) -> list[StreamText]:
        """The parts as pieces, one unless there are many."""
        most = _MOST_TOKENS // (1 + self.logprobs.alternatives) if self.logprobs else _MOST_TOKENS
        groups: list[list[_Part]] = []
        count = most
        for part in parts:
            if count >= most:
                groups.append([])
                count = 0
            groups[-1].append(part)
            count += len(part.ids)
        return [self._piece(group) for group in groups]

    def _piece(self, parts: Sequence[_Part]) -> StreamText:
        ids = tuple(token for part in parts for token in part.ids)
        piece = StreamText(
            request=self.request,
            first_token=self.tokens,
            first_character=self.characters,
            text="".join(part.text for part in parts),
            token_ids=ids,
            logprobs=self.logprobs.of(self.tokens, ids) if self.logprobs else None,
        )
        for part in parts:
            self._count(part)
        return piece

    def _count(self, part: _Part) -> None:
        self.tokens += len(part.ids)
        self.characters += len(part.text)


def begin_text(
    request: str, new_text: Callable[[], TextStream], stop: Sequence[str], logprobs: AnswerLogprobs | None
) -> AnswerText:
    """The text of an answer of which there is no token yet."""
    return AnswerText(request, new_text(), StopStrings(stop) if stop else None, logprobs)


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
        pieces = self.text.push(self.shown(fresh))
        pieces += self.text.finish() if self.finish else []
        if self.text.stopped_at is not None:
            self.finish, self._ended_by_token = "stop", False
            del self.tokens[self.text.stopped_at :]
        return pieces, False

    def cut(self) -> list[StreamText]:
        """End the answer where it is, for want of room; the piece of text that is left."""
        self.finish = "length"
        return self.text.finish()

    def shown(self, ids: Sequence[int]) -> Sequence[int]:
        """Of an answer's newest tokens those that are text: the one that ended it may be none."""
        return ids[:-1] if self._ended_by_token else ids

    def text_after(self, tokens: int) -> list[StreamText]:
        """The text behind the first ``tokens`` tokens once more, for a reader who has missed it."""
        return self._begin_text().after(tokens, self.shown(self.tokens), is_end=self.finish is not None)
