"""The text of an answer, in pieces (pure).

Text and tokens are told together, in parts: the tokens that have completed some characters, and these. What may be the
beginning of a stop string is held back, whole parts of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.model.served import TextStream
from orchestrator.requests.answer_logprobs import AnswerLogprobs
from orchestrator.requests.stop_strings import StopStrings
from schemas.messages import StreamText

_MOST_TOKENS = 512
"""Behind one piece; of a token whose alternatives are told each one counts."""


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
