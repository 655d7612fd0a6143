"""Find the longest payload that a broker passes on, where it has a limit that it does not announce (pure).

Mosquitto's ``message_size_limit`` drops what is longer without a word, or ends the connection, as its
``max_packet_size`` does to MQTT 3.1.1. A probe is a message to oneself, and a mark behind it: the order of a connection
makes a mark without its probe a lost probe, without waiting. Sizes grow fourfold while they come back; where one is
lost (twice: a network may do that too) the limit is closed in on from both sides, not far where each step costs a
connection.
"""

from __future__ import annotations

import math

SHORTEST_BYTES = 4_096
GROWTH = 4
PRECISION, COARSE = 1.06, 2.0
"""How near the sizes that passed and that were lost are to come; COARSE where a lost one ends the connection."""
BUDGET_S = 2.0
"""Larger sizes are left alone where they would take longer: slow links need no large messages."""
PATIENCE_S = 2.0
"""Neither probe nor mark after this time: nothing is to be learned here."""
TRIES = 2
_KINDS = (b"probe", b"mark.")


class PayloadProbe:
    """The search for one broker's limit: says what to publish to oneself, is told what comes back.

    ``limit_bytes`` is what was found.
    """

    def __init__(self, longest_bytes: int, *, known_bytes: int = 0) -> None:
        """``longest_bytes``: no larger size is of interest; ``known_bytes``: this much is passed on."""
        self._longest_bytes = longest_bytes
        self._passed_bytes = known_bytes
        self._lost_bytes: int | None = None
        self._size_bytes = min(SHORTEST_BYTES, longest_bytes)
        self._number = 0
        self._came_back = False
        self._tries = 0
        self._hangs_up = False
        """Does a size that is lost end the connection?"""
        self._began_s: float | None = None
        self._sent_s: float | None = None
        """When the probe on its way was sent; None when there is none."""
        self.done = longest_bytes <= known_bytes

    @property
    def limit_bytes(self) -> int | None:
        """The longest payload that came back, if a longer one was lost; None: no limit is known."""
        return None if self._lost_bytes is None or not self._passed_bytes else self._passed_bytes

    @property
    def due_s(self) -> float | None:
        """When ``next_messages`` gives up waiting; None when it does not wait."""
        return None if self._sent_s is None else self._sent_s + PATIENCE_S

    def next_messages(self, now_s: float) -> tuple[bytes, ...]:
        """What to publish now, with QoS 0 and in this order; nothing while a probe is on its way or when done."""
        if self._began_s is None:
            self._began_s = now_s
        if self._sent_s is not None:
            if now_s < self._sent_s + PATIENCE_S:
                return ()
            self.done = True
        if self.done:
            return ()
        self._number += 1
        self._came_back, self._sent_s = False, now_s
        probe, mark = (b"%b %08d " % (kind, self._number) for kind in _KINDS)
        return probe.ljust(self._size_bytes, b"."), mark

    def echo(self, payload: bytes, now_s: float) -> bool:
        """Take in a message that came back; false for what is neither probe nor mark."""
        if payload[:5] not in _KINDS:
            return False
        if self._sent_s is None or payload[6:14] != b"%08d" % self._number:
            return True  # of an earlier one
        if payload.startswith(_KINDS[0]):
            self._came_back = True
        elif self._came_back:
            self._passed(now_s - self._sent_s, now_s)
        else:
            self._lost(hangs_up=False)
        return True

    def connection_lost(self) -> None:
        """Note that the connection was lost, perhaps because of the probe that is on its way."""
        if self._sent_s is not None:
            self._lost(hangs_up=True)

    def _passed(self, took_s: float, now_s: float) -> None:
        assert self._began_s is not None
        self._passed_bytes, self._sent_s, self._tries = self._size_bytes, None, 0
        self._go_on()
        growth = self._size_bytes / self._passed_bytes
        self.done = self.done or now_s - self._began_s + took_s * growth > BUDGET_S

    def _lost(self, *, hangs_up: bool) -> None:
        self._sent_s = None
        self._tries += 1
        if self._tries == TRIES or (hangs_up and self._hangs_up):
            self._lost_bytes, self._tries = self._size_bytes, 0
            self._hangs_up = hangs_up
            self._go_on()

    def _go_on(self) -> None:
        """Choose the next size."""
        if self._lost_bytes is None:
            self.done = self._passed_bytes >= self._longest_bytes
            self._size_bytes = min(self._size_bytes * GROWTH, self._longest_bytes)
            return
        ratio = self._lost_bytes / max(self._passed_bytes, 1)
        self.done = ratio <= (COARSE if self._hangs_up else PRECISION) or self._lost_bytes - self._passed_bytes <= 1
        self._size_bytes = math.isqrt(max(self._passed_bytes, 1) * self._lost_bytes)
