"""Which tokens may come in an answer that is bound to a form, as the orchestrator has told the last stage (pure).

What is told for a position holds as long as the tokens before it are the ones that were expected then: those that
nothing else can come for, and guesses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_node.work import Allowed

_KEPT = 4
"""Paths: a step may be repeated after the next one has been prepared."""


@dataclass(frozen=True, slots=True)
class Path:
    """What may come from ``position`` on, while it is ``expected`` that comes."""

    position: int
    expected: Sequence[int]
    allowed: Sequence[Allowed]
    """By position; at most one more than is expected."""


@dataclass(slots=True)
class AllowedTokens:
    """The newest paths of one request."""

    _paths: dict[int, Path] = field(default_factory=dict)
    """By position, in the order of arrival."""

    def take(self, path: Path) -> None:
        """Take in a path, in place of an earlier one from the same position."""
        self._paths.pop(path.position, None)
        self._paths[path.position] = path
        if len(self._paths) > _KEPT:
            del self._paths[next(iter(self._paths))]

    def known(self, position: int, tokens: Mapping[int, int]) -> bool:
        """Is it known what may come at a position, behind these tokens of the answer?"""
        return self._rest(position, tokens) is not None

    def along(self, position: int, tokens: Mapping[int, int], guess: Sequence[int]) -> list[Allowed]:
        """What may come at a position and, as long as the guess is right, at those behind it."""
        rest = self._rest(position, tokens)
        if rest is None:
            return []
        found = [rest.allowed[0]]
        for guessed, expected, allowed in zip(guess, rest.expected, rest.allowed[1:], strict=False):
            if guessed != expected:
                break
            found.append(allowed)
        return found

    def certain(self, position: int, tokens: Mapping[int, int], most: int) -> tuple[int, ...]:
        """The tokens from a position on that nothing else can come for, as far as they are known."""
        rest = self._rest(position, tokens)
        found: list[int] = []
        for allowed in rest.allowed[: max(most, 0)] if rest else ():
            if not isinstance(allowed, int):
                break
            found.append(allowed)
        return tuple(found)

    def _rest(self, position: int, tokens: Mapping[int, int]) -> Path | None:
        """The part from ``position`` on of the newest path that the tokens before it have followed."""
        for path in reversed(self._paths.values()):
            ahead = position - path.position
            if 0 <= ahead < len(path.allowed) and all(
                tokens.get(path.position + index) == path.expected[index] for index in range(ahead)
            ):
                return path if ahead == 0 else Path(position, path.expected[ahead:], path.allowed[ahead:])
        return None
