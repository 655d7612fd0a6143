"""How often guesses of one kind are right (pure)."""

from __future__ import annotations

from dataclasses import dataclass

TRIES = 4.0
"""How many tries what was known beforehand counts for."""
_MEMORY = 0.95
"""What a try counts for after the next one."""


@dataclass(slots=True)
class Acceptance:
    """How often the next token was right, the newest tries above all."""

    right: float
    tries: float = TRIES

    @classmethod
    def expected(cls, rate: float) -> Acceptance:
        """Before anything is known."""
        return cls(TRIES * rate)

    def learn(self, *, is_right: bool) -> None:
        """Take in one more try."""
        self.right = self.right * _MEMORY + is_right
        self.tries = self.tries * _MEMORY + 1

    @property
    def rate(self) -> float:
        """The share that was right."""
        return self.right / self.tries
