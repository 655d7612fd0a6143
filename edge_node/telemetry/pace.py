"""How often a node says how it is (pure): often while something depends on it, seldom while nothing happens.

Each heartbeat names the pace, so that whoever listens knows how much silence is none to worry about. A node that is
asked for anything says at once that it is there, if it has not done so just before.
"""

from __future__ import annotations

import math

SELDOM_S = 5.0
"""Between two heartbeats of a node to which nothing happens."""
LINGER_S = 10.0
"""After the last thing that happened a node is quick for so long: more of the kind often follows."""


class Pace:
    """When the next heartbeat is due. A node with open requests is twice as quick as one to which something happens."""

    def __init__(self, interval_s: float) -> None:
        """``interval_s``: between two heartbeats while something happens."""
        self._interval_s = interval_s
        self._due_s = self._said_s = -math.inf
        self._stirred_s = -math.inf
        self._news: object = None

    def stirred(self, now_s: float) -> None:
        """Note that something has happened: a message, a step of a download, a wish to leave."""
        self._stirred_s = now_s

    def is_quiet(self, now_s: float) -> bool:
        """Has nothing happened for a while?"""
        return now_s - self._stirred_s >= LINGER_S

    def interval_s(self, now_s: float, *, serving: bool) -> float:
        """Until the next heartbeat, if nothing happens before; ``serving``: requests are open here."""
        if serving:
            return self._interval_s / 2
        return max(SELDOM_S, self._interval_s) if self.is_quiet(now_s) else self._interval_s

    def due_s(self, now_s: float, *, serving: bool) -> float:
        """When the next heartbeat is due: when the last one has promised it, or sooner."""
        return min(self._due_s, self._said_s + self.interval_s(now_s, serving=serving))

    def said(self, news: object, now_s: float, *, serving: bool) -> float:
        """Note a heartbeat, and return after how long the next one is promised.

        That its ``news`` are others than those of the one before is something that happens.
        """
        if news != self._news:
            self._news, self._stirred_s = news, now_s
        next_s = self.interval_s(now_s, serving=serving)
        self._said_s, self._due_s = now_s, now_s + next_s
        return next_s
