"""Guesses of the next tokens by prompt look-up: what followed where the text so far has stood before.

Summaries, code edits and tables repeat their source, and there many guesses are right at once; they are verified in the
round trip that the next token takes anyway (speculative decoding, arXiv 2211.17192; the look-up is "prompt lookup
decoding"). The prompt holds a conversation's earlier turns, so these are looked up, too.

The longest match is taken, the newest of several, and followed as long as it is right. Where a token differs and no
other place fits, the text is taken to go on behind the one that was replaced; the next time its source comes, the
replacement is guessed. So a renamed variable costs one wrong guess, not one for each time that it occurs.

Every token tells how good the look-up is, whether it was guessed or not: what it would have said is compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edge_node.requests.acceptance import Acceptance

_SHORTEST_MATCH = 2
_LONGEST_MATCH = 32
"""A longer match says no more."""
_PLACES = 24
"""The most places that are compared: the newest ones."""
_REPLACED_FROM = 4
"""After a match of this length a token that differs is taken for a replacement."""
_CLASSES = ((1, 0.45), (2, 0.4), (3, 0.6), (4, 0.7), (6, 0.8), (10, 0.9), (20, 0.95))
"""Matches by their length, from this one on, and how often the token that follows is right, until that is known."""


def _class_of(matched: int) -> int:
    """The class of a match of this length."""
    return next(index for index in range(len(_CLASSES) - 1, -1, -1) if matched >= _CLASSES[index][0])


_CLASS_OF = tuple(_class_of(max(matched, 1)) for matched in range(_LONGEST_MATCH + 1))


@dataclass(slots=True)
class PromptLookup:
    """One request's look-up."""

    ids: list[int]
    """The prompt and all tokens so far."""
    _newest: dict[tuple[int, int], int] = field(default_factory=dict)
    """Where the text went on after two tokens, the last time they stood there."""
    _before: list[int] = field(default_factory=lambda: [0] * _SHORTEST_MATCH)
    """By position: where it went on the time before; 0 where there was none."""
    _source: int = 0
    """Where what is guessed stands; 0 where nothing is."""
    _matched: int = 0
    """How many tokens before it are those at the end of the text."""
    _replaced: dict[int, int] = field(default_factory=dict)
    """Tokens of the source, and what stands for them."""
    _doubtful: tuple[int, int] | None = None
    """A replacement that counts if the text goes on behind it."""
    _acceptance: list[Acceptance] = field(default_factory=lambda: [Acceptance.expected(rate) for _, rate in _CLASSES])

    def __post_init__(self) -> None:
        self._index()
        self._search()

    def take(self, position: int, tokens: Sequence[int]) -> None:
        """Take in tokens that were chosen from ``position`` on; what was known from there on counts no more."""
        if position < len(self.ids):
            del self.ids[position:]
            self._newest.clear()
            del self._before[_SHORTEST_MATCH:]
            self._index()
            self._search()
        for token in tokens:
            self._follow(token)

    def may_follow(self, token: int) -> bool:
        """Will there perhaps be a guess behind this token?"""
        if self._source:
            original = self.ids[self._source]
            if self._matched >= _REPLACED_FROM or self._replaced.get(original, original) == token:
                return True
        ids = self.ids
        return len(ids) < 2 or (ids[-1], token) in self._newest or ids[-2] == ids[-1] == token

    def _index(self) -> None:
        """Note every pair of tokens but the last one, which nothing follows yet."""
        for place in range(len(self._before), len(self.ids)):
            pair = self.ids[place - 2], self.ids[place - 1]
            self._before.append(self._newest.get(pair, 0))
            self._newest[pair] = place

    def _follow(self, token: int) -> None:
        source, matched = self._source, self._matched
        self.ids.append(token)
        self._index()
        if source == 0:
            self._search()
            return
        original = self.ids[source]
        is_right = self._replaced.get(original, original) == token
        self._acceptance[_CLASS_OF[matched]].learn(is_right=is_right)
        if is_right:
            self._source, self._matched = source + 1, min(matched + 1, _LONGEST_MATCH)
            if self._doubtful:
                replaced, by = self._doubtful
                self._replaced[replaced] = by
                self._doubtful = None
            return
        self._doubtful = None
        self._replaced.pop(original, None)
        self._search()
        if not self._source and matched >= _REPLACED_FROM and source + 1 < len(self.ids) - 1:
            self._source, self._matched = source + 1, 1
            self._doubtful = (original, token)

    def _search(self) -> None:
        """Look for the longest match of the end of the text."""
        ids, stop = self.ids, len(self.ids)
        self._source = self._matched = 0
        if stop < _SHORTEST_MATCH:
            return
        place = self._newest.get((ids[-2], ids[-1]), 0)
        for _ in range(_PLACES):
            if place == 0:
                break
            length = _SHORTEST_MATCH
            while length < min(place, _LONGEST_MATCH) and ids[place - 1 - length] == ids[stop - 1 - length]:
                length += 1
            if length > self._matched:
                self._source, self._matched = place, length
            place = self._before[place]

    def guess(self, most: int) -> list[int]:
        """The tokens that are expected next; fewer, where the text ends that they are read from."""
        if self._source == 0:
            return []
        tokens: list[int] = []
        for place in range(self._source, self._source + most):
            # What repeats itself goes on behind the end of the text with what is guessed by then.
            if place < len(self.ids):
                token = self.ids[place]
                tokens.append(self._replaced.get(token, token))
            else:
                tokens.append(tokens[place - len(self.ids)])
        return tokens

    def chances(self) -> Iterator[float]:
        """For each of these tokens how likely it is right, where those before it are."""
        for matched in itertools.count(self._matched):
            yield self._acceptance[_CLASS_OF[min(matched, _LONGEST_MATCH)]].rate
