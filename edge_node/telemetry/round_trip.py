"""The round trip of a small message through the broker, measured again and again beside the work."""

from __future__ import annotations

from schemas.ewma import ewma

WEIGHT = 0.2
"""Of a new sample."""
PATIENCE_S = 5.0
"""An echo that takes longer is lost."""
SELDOM_S = 30.0
"""Between two echoes while nothing happens."""


class RoundTripMeter:
    """Measures with one tiny echo at a time. A sample during which the node computed is dropped: that tells of work."""

    def __init__(self) -> None:
        self.rtt_s: float | None = None
        """Smoothed; None before the first echo."""
        self._sent = 0
        self._payload = b""
        """Of the echo on its way; empty when there is none."""
        self._sent_s = 0.0
        self.disturbed = False
        """Was the thread that reads the echo busy since it was sent?"""
        self.silent_since_s: float | None = None
        """Since when an echo has been asked for and nothing has come; None when none is on its way."""

    def next_message(self, now_s: float, *, seldom: bool = False) -> bytes | None:
        """What to publish to oneself; None while an echo is on its way, or was just sent and they are to be seldom."""
        pause_s = SELDOM_S if seldom else PATIENCE_S if self._payload else 0.0
        if self._sent and now_s - self._sent_s < pause_s:
            return None
        self._sent += 1
        self._payload, self._sent_s, self.disturbed = b"rtt %d" % self._sent, now_s, False
        if self.silent_since_s is None:
            self.silent_since_s = now_s
        return self._payload

    def heard(self, now_s: float) -> None:
        """Note that something came from the broker, the echo or not: behind much else the echo may take its time."""
        if self.silent_since_s is not None:
            self.silent_since_s = now_s

    def echo(self, payload: bytes, now_s: float) -> None:
        """Take in a message to oneself; one that is not the echo awaited is left to others."""
        if not self._payload or payload != self._payload:
            return
        self._payload, self.silent_since_s = b"", None
        if self.disturbed:
            return
        sample_s = now_s - self._sent_s
        self.rtt_s = ewma(self.rtt_s, sample_s, WEIGHT)
