"""A grammar whose texts are few and known: what may come is what one of them goes on with."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.model.served import Expectation
from schemas.token_mask import mask_bytes

EOS = 0


class ScriptedGrammar:
    """The answers are exactly these ``texts`` of token ids."""

    def __init__(self, *texts: Sequence[int], vocab_size: int = 64) -> None:
        self.vocab_size = vocab_size
        self._texts = [tuple(text) for text in texts]

    def begin(self) -> ScriptedState:
        return ScriptedState(self._texts, self.vocab_size)


class ScriptedState:
    """How far an answer is."""

    def __init__(self, texts: Sequence[tuple[int, ...]], vocab_size: int) -> None:
        self._texts, self._vocab_size = texts, vocab_size
        self.taken: tuple[int, ...] = ()

    def _next(self, taken: tuple[int, ...]) -> set[int]:
        behind = [text[len(taken) :] for text in self._texts if text[: len(taken)] == taken]
        return {rest[0] if rest else EOS for rest in behind}

    def take(self, ids: Sequence[int]) -> int:
        for count, token in enumerate(ids):
            if token not in self._next(self.taken):
                return count
            self.taken += (token,) if token != EOS else ()
        return len(ids)

    @property
    def is_complete(self) -> bool:
        return self._next(self.taken) == {EOS}

    def expect(self, guess: Sequence[int]) -> Expectation:
        expected: list[int] = []
        masks: list[bytes | None] = []
        while EOS not in expected:
            possible = self._next((*self.taken, *expected))
            if not possible:
                return Expectation((), (), "nothing can follow")
            if len(possible) == 1:
                masks.append(None)
                expected += possible
                continue
            masks.append(set_of(possible, self._vocab_size))
            place = len(expected)
            if place >= len(guess) or list(guess[:place]) != expected or guess[place] not in possible:
                break
            expected.append(guess[place])
        return Expectation(tuple(expected), tuple(masks))


def set_of(ids: set[int], vocab_size: int = 64) -> bytes:
    """A set of tokens as bits."""
    return sum(1 << number for number in ids).to_bytes(mask_bytes(vocab_size), "little")
