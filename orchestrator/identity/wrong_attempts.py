"""Wrong attempts to get in, counted by address: after too many of them nothing is tried from there for a while (pure).

Counted together, one who guesses would keep everybody else out.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_ATTEMPTS = 20
WINDOW_S = 60.0
_MOST_PEERS = 4096
"""Of more addresses the oldest are forgotten: whoever has many could let them grow for ever."""


@dataclass(slots=True)
class _Attempts:
    since_s: float
    count: int = 0


class WrongAttempts:
    """After ``MOST_ATTEMPTS`` from an address nothing is tried from there until ``WINDOW_S`` after the first of them,
    right or not: otherwise guessing would go on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: OrderedDict[str, _Attempts] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def wait_s(self, peer: str) -> float:
        """Seconds until something may be tried from this address; 0: now."""
        attempts = self._of.get(peer)
        if attempts is None:
            return 0.0
        left_s = attempts.since_s + WINDOW_S - self._clock()
        if left_s <= 0:
            del self._of[peer]
            return 0.0
        return left_s if attempts.count >= MOST_ATTEMPTS else 0.0

    def add(self, peer: str) -> None:
        """Count a wrong one."""
        attempts = self._of.get(peer)
        if attempts is None:
            attempts = self._of[peer] = _Attempts(self._clock())
            if len(self._of) > _MOST_PEERS:
                self._of.popitem(last=False)
        attempts.count += 1
