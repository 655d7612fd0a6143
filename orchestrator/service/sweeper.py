"""Clears what the broker keeps and nobody is to find: junk that was stored, and all that a revoked name has left.

What one may store takes the broker's memory until somebody clears it, which only who may publish there can do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from broker.bus import Bus
from broker.roles import RIGHTS
from schemas.topics import NODE_BIRTH, NODE_STATUS

LOCKED_OUT_S = 2.0
"""From a revocation until the broker has ended the member's connections: it stores nothing any more."""
_ROUND_S = 2.0
"""The broker queues no more for one reader than it has room for: it is asked again until nothing comes."""
SHOWN_S = 60.0
"""People see for a while that a node's membership has ended."""


class Sweeper:
    """Owned by the thread that owns the bus."""

    def __init__(self, bus: Bus, is_member: Callable[[str], bool]) -> None:
        self._bus = bus
        self._is_member = is_member
        self._due: deque[tuple[float, str]] = deque()
        self._shown: deque[tuple[float, str]] = deque()
        self._asked: list[str] = []
        """Patterns of the name whose turn it is."""
        self._round_s = 0.0
        self._found = False

    def clear(self, topic: str) -> None:
        """Have the broker forget what it keeps on a topic; an empty message is how MQTT says it."""
        self._found = True
        # Not acknowledged: what can't be sent now is no reason to stop, and is found again in the next round.
        self._bus.publish(topic, b"", retain=True)

    def revoked(self, name: str) -> None:
        """Note that a membership has ended. For any thread."""
        now_s = time.monotonic()
        self._due.append((now_s + LOCKED_OUT_S, name))
        self._shown.append((now_s + SHOWN_S, name))

    def look(self, now_s: float) -> list[str]:
        """Do what is due; returns the names that people need not see any more."""
        if self._asked and now_s >= self._round_s:
            self._bus.unsubscribe(self._asked)
            if self._found:
                self._ask(self._asked, now_s)
            else:
                self._asked = []
        if not self._asked and self._due and now_s >= self._due[0][0]:
            _, name = self._due.popleft()
            if not self._is_member(name):  # again
                for topic in (NODE_BIRTH, NODE_STATUS):
                    self.clear(topic.format(node=name))
            self._ask(_patterns(name), now_s)
        return [self._shown.popleft()[1] for due_s, _ in list(self._shown) if now_s >= due_s]

    def _ask(self, patterns: list[str], now_s: float) -> None:
        self._found = False
        self._asked, self._round_s = patterns, now_s + _ROUND_S
        self._bus.subscribe(patterns, qos=0)


def _patterns(name: str) -> list[str]:
    """Where a member of this name could store something, whatever its role was, besides birth and status."""
    rights = {
        right.topic.filter(**({right.me: name} if right.me else {}))
        for role, rights in RIGHTS.items()
        for right in rights
        if role != "orchestrator" and "write" in right.access and right.topic not in (NODE_BIRTH, NODE_STATUS)
    }
    return sorted(rights)
