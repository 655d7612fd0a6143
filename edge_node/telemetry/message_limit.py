"""How long a message the broker passes on: what it announces, and what is found where it says nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.bus import Bus, Connected, Delivery, Disconnected, Event
from broker.payload_probe import PayloadProbe
from edge_node.telemetry.startup_benchmark import HOP_BYTES
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.topics import LONGEST_TOPIC_BYTES

FIND_TIMEOUT_S = 8.0
"""For all of it at the start; only a broker that hangs up on long messages takes seconds."""
CHECKED_BYTES = 262_144
"""After a reconnect no more is tried: the broker may be another, but answers wait, and most messages are shorter."""


class MessageLimit:
    """The limit of one connection, looked for with messages of the node to itself."""

    def __init__(self, bus: Bus, topic: str) -> None:
        """``topic`` is the node's own: nobody else publishes or reads there."""
        self._bus = bus
        self._topic = topic
        self._probe: PayloadProbe | None = None

    @property
    def max_message_bytes(self) -> int:
        """The longest payload, whatever the topic's names."""
        return max(0, min(self._bus.max_payload_bytes - LONGEST_TOPIC_BYTES, MAX_PAYLOAD_BYTES))

    def find(self, keep: Callable[[Event], None]) -> None:
        """Look for the limit now, before there is other work; ``keep`` is given every other event that arrives."""
        self._probe = probe = PayloadProbe(self.max_message_bytes, known_bytes=min(HOP_BYTES, self.max_message_bytes))
        ends_s = time.monotonic() + FIND_TIMEOUT_S
        while not probe.done and time.monotonic() < ends_s:
            self.go_on()
            for event in self._bus.poll(min(probe.due_s or ends_s, ends_s) - time.monotonic()):
                if not self.take(event) and not isinstance(event, Connected | Disconnected):
                    keep(event)
        self._end()

    def check(self) -> None:
        """After a reconnect, look whether less is passed on than before, beside the work, or go on with a search."""
        if self._probe is not None:
            return
        longest_bytes = min(self.max_message_bytes, CHECKED_BYTES)
        self._probe = PayloadProbe(longest_bytes, known_bytes=min(HOP_BYTES, longest_bytes))

    def go_on(self) -> bool:
        """Publish the next messages of a search; true when the limit has just been found to be lower."""
        if self._probe is None:
            return False
        if self._bus.connected:
            for payload in self._probe.next_messages(time.monotonic()):
                self._bus.publish(self._topic, payload)
        return self._end() if self._probe.done else False

    def take(self, event: Event) -> bool:
        """Take in an event: an echo of a search, or a lost connection; true for one that is nobody else's."""
        if self._probe is None:
            return False
        if isinstance(event, Disconnected):
            self._probe.connection_lost()
        elif isinstance(event, Delivery) and event.topic == self._topic:
            return self._probe.echo(event.payload, time.monotonic())
        return False

    def _end(self) -> bool:
        found_bytes = self._probe.limit_bytes if self._probe else None
        self._probe = None
        if found_bytes is None:
            return False
        self._bus.limit_payload(found_bytes)
        return True
