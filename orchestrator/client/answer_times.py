"""When an answer was asked for and when its pieces came, as its reader saw it (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

_LEAST_INTERRUPTION_S = 1.0
_USUAL_TIMES = 3.0
"""A pause this many times as long as those that nothing disturbed is more than a slow model's."""


@dataclass
class AnswerTimes:
    """When an answer was asked for and its pieces came, on a clock of the caller's."""

    asked_s: float
    first_s: float | None = None
    """When its first piece came."""
    _newest_s: float = 0.0
    """When the newest came."""
    _is_disturbed: bool = False
    """Has something else been said of the answer since?"""
    _undisturbed: int = 0
    """Pauses between two pieces in which nothing else was said."""
    _undisturbed_s: float = 0.0
    _disturbed_s: list[float] = field(default_factory=list)
    """The lengths of the others."""

    @property
    def ttft_s(self) -> float | None:
        """From the question to the first piece; None until that has come."""
        return None if self.first_s is None else self.first_s - self.asked_s

    def piece_came(self, now_s: float) -> None:
        """Note that the next piece has come."""
        if self.first_s is None:
            self.first_s = now_s
        elif self._is_disturbed:
            self._disturbed_s.append(now_s - self._newest_s)
        else:
            self._undisturbed += 1
            self._undisturbed_s += now_s - self._newest_s
        self._newest_s, self._is_disturbed = now_s, False

    def disturbed(self) -> None:
        """Note that something is not as usual: it waits, goes on in another ring, or may have been missed."""
        self._is_disturbed = True

    @property
    def interrupted_s(self) -> float:
        """How long the answer stood still for something else than being computed, as far as that can be told.

        A slow model's next token is overdue at times too: only what is far longer than usual counts.
        """
        if not self._undisturbed:
            return 0.0
        usual_s = self._undisturbed_s / self._undisturbed
        least_s = max(_LEAST_INTERRUPTION_S, _USUAL_TIMES * usual_s)
        return sum(pause_s for pause_s in self._disturbed_s if pause_s >= least_s)
