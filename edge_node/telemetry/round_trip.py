"""How long a small message takes through the broker and back, measured again and again beside the work."""

from __future__ import annotations

from schemas.ewma import ewma

WEIGHT = 0.2
"""Of a new sample."""
PATIENCE_S = 5.0
"""An echo that takes longer is lost."""


class RoundTripMeter:
    """One tiny echo at a time. A sample during which the node computed is dropped: it says more about the work."""

    def __init__(self) -> None:
        self.rtt_s: float | None = None
        """Smoothed; None before the first echo."""
        self._sent = 0
        self._payload = b""
        """Of the echo on its way; empty when there is none."""
        self._sent_s = 0.0
        self._disturbed = False

    def next_message(self, now_s: float) -> bytes | None:
        """What to publish to oneself; None while an echo is on its way."""
        if self._payload and now_s - self._sent_s < PATIENCE_S:
            return None
        self._sent += 1
        self._payload, self._sent_s, self._disturbed = b"rtt %d" % self._sent, now_s, False
        return self._payload

    def computed(self) -> None:
        """The thread that reads the echo was busy."""
        self._disturbed = True

    def echo(self, payload: bytes, now_s: float) -> None:
        """Something came back; what is not the echo awaited is left to others."""
        if not self._payload or payload != self._payload:
            return
        self._payload = b""
        if self._disturbed:
            return
        sample_s = now_s - self._sent_s
        self.rtt_s = ewma(self.rtt_s, sample_s, WEIGHT)
