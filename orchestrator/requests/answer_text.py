"""The text of an answer in pieces, each with its place in the whole (pure).

Text and tokens are told together, in parts: the tokens that have completed some characters, and these. What may be the
beginning of a stop string is held back, whole parts of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.model.served import TextStream
from orchestrator.requests.stop_strings import StopStrings
from schemas.messages import StreamText

_REPEATED_TOKENS = 512
"""Behind one piece, at the most, of what is sent once more."""


@dataclass
class _Part:
    """Tokens, and the characters that the last of them has completed."""

    ids: Sequence[int]
    text: str


@dataclass
class AnswerText:
    """The text of one answer, up to the first of its ``stop`` strings."""

    request: str
    stream: TextStream
    stop: StopStrings = field(default_factory=StopStrings)
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
        """The piece that these tokens complete; none while a character is incomplete.

        It ends with a token that has completed a character, so that its place does not depend on how tokens came.
        """
        return self._pieces(self._parts(ids))

    def finish(self) -> list[StreamText]:
        """The piece that is left at the end of the answer, if there is one."""
        return self._pieces(self._rest())

    def after(self, tokens: int, ids: Iterable[int], *, is_end: bool) -> list[StreamText]:
        """Of an answer of these tokens the pieces behind the first ``tokens`` ones; for a text that has none yet."""
        parts = self._parts(ids)
        parts += self._rest() if is_end else []
        pieces: list[StreamText] = []
        group: list[_Part] = []
        for part in parts:
            if part.ids and not group and self.tokens + len(part.ids) <= tokens:
                self._count([part])
                continue
            group.append(part)
            if sum(len(one.ids) for one in group) >= _REPEATED_TOKENS:
                pieces += self._pieces(group)
                group = []
        return pieces + self._pieces(group)

    def _parts(self, ids: Iterable[int]) -> list[_Part]:
        """The parts that more tokens have settled."""
        for token_id in ids:
            self._taken += 1
            self._ids.append(token_id)
            if completed := self.stream.push(token_id):
                self._add(completed)
                if self.stopped_at is not None:
                    break
        return self._released(self.stop.held)

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
        beyond = self.stop.find(text)
        if beyond is not None:
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
        """The parts as one piece, if there are any."""
        if not parts:
            return []
        piece = StreamText(
            request=self.request,
            first_token=self.tokens,
            first_character=self.characters,
            text="".join(part.text for part in parts),
            token_ids=tuple(token for part in parts for token in part.ids),
        )
        self._count(parts)
        return [piece]

    def _count(self, parts: Iterable[_Part]) -> None:
        for part in parts:
            self.tokens += len(part.ids)
            self.characters += len(part.text)
