"""How often something may happen, in all or for each name (pure)."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

_MOST_NAMES = 1024
"""Of those that nothing was heard of for the longest time, the rates are forgotten: who has many names could let them
grow for ever."""


@dataclass(frozen=True)
class Rate:
    """``burst`` at once, and ``per_s`` a second in the long run."""

    burst: int
    per_s: float


class TokenBucket:
    """As many tokens as a rate's burst at first; one is taken for each event, and time brings more."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at_s = -math.inf

    def wait_s(self, now_s: float) -> float:
        """Seconds until a token is there; 0 when one is."""
        if self._at_s > -math.inf:
            gained = max(0.0, now_s - self._at_s) * self._rate.per_s
            self._tokens = min(self._rate.burst, self._tokens + gained)
        self._at_s = max(now_s, self._at_s)
        return max(0.0, (1.0 - self._tokens) / self._rate.per_s)

    def take(self, now_s: float) -> bool:
        """Take a token, if one is there."""
        if self.wait_s(now_s) > 0:
            return False
        self._tokens -= 1
        return True


class Rates:
    """The same rate for each of many names."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, name: str, now_s: float) -> float:
        """Seconds until it may happen again under this name; 0 when it may now."""
        bucket = self._buckets.get(name)
        return bucket.wait_s(now_s) if bucket else 0.0

    def take(self, name: str, now_s: float) -> bool:
        """Count it, if it may happen under this name now."""
        bucket = self._buckets.setdefault(name, TokenBucket(self._rate))
        self._buckets.move_to_end(name)
        if len(self._buckets) > _MOST_NAMES:
            self._buckets.popitem(last=False)
        return bucket.take(now_s)
