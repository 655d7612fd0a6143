"""The in-process twin of the bus: a broker that is an object, for tests without a socket or a process.

`MemoryBus` keeps the contract of `broker.bus.Bus`, and `MemoryBroker` can do on demand what a real network does when it
likes: lose a client, go away and come back empty, deliver twice. Clients may live in different threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from broker.bus import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    DEFAULT_MAX_QUEUED,
    NO_PROPERTIES,
    BusStats,
    Connected,
    Delivery,
    Disconnected,
    Event,
    Payload,
    Properties,
    Subscribed,
    Will,
)
from broker.errors import (
    BrokerRefused,
    BrokerUnreachable,
    BusClosed,
    PayloadTooLarge,
    QueueFull,
    SubscribeRefused,
)
from broker.topic_filters import check_pattern, check_topic, matches
from schemas.closing import Closing

NAME = "the in-memory broker"


def _never(_: object) -> bool:
    return False


class MemoryBroker:
    """Routes messages between `MemoryBus` clients; everything happens under one lock, so all see one order."""

    def __init__(self) -> None:
        self.repeat: Callable[[Delivery], bool] = _never
        """Deliveries for which this is true arrive twice in a row. Called under the broker's lock."""
        self.lose: Callable[[Delivery], bool] = _never
        """Messages for which this is true arrive nowhere, and nobody is told."""
        self.refuse_client: Callable[[str], bool] = _never
        """Client ids for which this is true get BrokerRefused."""
        self.refuse_pattern: Callable[[str], bool] = _never
        """Patterns for which this is true get SubscribeRefused."""
        self._changed = threading.Condition(threading.RLock())
        self._clients: dict[str, MemoryBus] = {}
        self._retained: dict[str, Delivery] = {}
        self._up = True

    def drop(self, client_id: str) -> None:
        """Lose a client's connection abruptly: its will is published. It reconnects in its next `poll`."""
        with self._changed:
            bus = self._clients.get(client_id)
            if bus is not None:
                self._lose(bus, "connection lost", with_will=True)

    def stop(self) -> None:
        """Go away as a crashed broker does: no wills, retained messages forgotten, connections refused."""
        with self._changed:
            self._up = False
            self._retained.clear()
            for bus in list(self._clients.values()):
                self._lose(bus, "connection lost", with_will=False)

    def start(self) -> None:
        """Come back after `stop`; clients that are polling reconnect at once."""
        with self._changed:
            self._up = True
            self._changed.notify_all()

    def _lose(self, bus: MemoryBus, reason: str, *, with_will: bool) -> None:
        del self._clients[bus.client_id]
        bus._online = False
        bus._inbox.append(Disconnected(reason))
        if with_will:
            self._publish_will(bus)
        self._changed.notify_all()

    def _publish_will(self, bus: MemoryBus) -> None:
        if bus._will is not None:
            self._route(Delivery(bus._will.topic, bus._will.payload, bus._will.qos, bus._will.retain))

    def _admit(self, bus: MemoryBus) -> None:
        """Register a client; one of the same id is thrown out first, as MQTT wants it."""
        if not self._up:
            raise BrokerUnreachable(NAME, "stopped")
        if self.refuse_client(bus.client_id):
            raise BrokerRefused(NAME, "not authorized")
        older = self._clients.get(bus.client_id)
        if older is not None:
            self._lose(older, "session taken over", with_will=True)
        self._clients[bus.client_id] = bus
        bus._online = True

    def _route(self, sent: Delivery) -> None:
        topic, payload, qos, retain, _ = sent
        if self.lose(sent):
            return
        if retain and payload:
            self._retained[topic] = sent
        elif retain:
            self._retained.pop(topic, None)
        for bus in self._clients.values():
            granted = {pattern: limit for pattern, limit in bus._patterns.items() if matches(pattern, topic)}
            if granted:
                is_stored = retain and not bus._live_only.isdisjoint(granted)
                self._deliver(bus, sent._replace(qos=min(qos, max(granted.values())), retain=is_stored))
        self._changed.notify_all()

    def _deliver(self, bus: MemoryBus, delivery: Delivery) -> None:
        for _ in range(2 if self.repeat(delivery) else 1):
            bus._inbox.append(delivery)
            bus.stats.messages_in += 1
            bus.stats.bytes_in += len(delivery.topic) + len(delivery.payload)

    def _send_retained(self, bus: MemoryBus, patterns: Iterable[str]) -> None:
        for pattern in patterns:
            for topic, kept in self._retained.items():
                if matches(pattern, topic):
                    qos = min(kept.qos, bus._patterns[pattern])
                    self._deliver(bus, kept._replace(qos=qos))


class MemoryBus(Closing):
    """A `broker.bus.Bus` connected to a `MemoryBroker`. See the port for the contract of each method."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        client_id: str,
        will: Will | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        max_queued: int = DEFAULT_MAX_QUEUED,
    ) -> None:
        self.client_id = client_id
        self.stats = BusStats()
        self.announced_payload_bytes = self.max_payload_bytes = max_payload_bytes
        self._broker = broker
        self._changed = broker._changed
        self._will = will
        self._max_queued = max_queued
        self._open = False
        self._online = False
        self._woken = False
        self._inbox: list[Event] = []
        self._patterns: dict[str, int] = {}
        self._live_only: frozenset[str] = frozenset()
        """Patterns on which stored messages are not wanted."""
        self._backlog: deque[Delivery] = deque()
        self._refused: SubscribeRefused | None = None

    @property
    def connected(self) -> bool:
        """True while the broker knows this client."""
        return self._online

    def limit_payload(self, limit_bytes: int | None) -> None:
        """Take no larger payloads from now on; None forgets an earlier limit."""
        announced_bytes = self.announced_payload_bytes
        self.max_payload_bytes = announced_bytes if limit_bytes is None else min(limit_bytes, announced_bytes)

    def connect(self, timeout_s: float = 10.0) -> None:
        """Connect at once or raise."""
        with self._changed:
            self._broker._admit(self)
            self._open = True
            self._inbox.append(Connected(session_present=False, reconnect=False))

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        """Deliver to every matching client before returning."""
        check_topic(topic)
        if len(payload) > self.max_payload_bytes:
            raise PayloadTooLarge(len(payload), self.max_payload_bytes)
        message = Delivery(topic, bytes(payload), qos, retain, properties)
        with self._changed:
            self._require_open("publish")
            if not self._online and qos == 0:
                self.stats.dropped_qos0 += 1
            elif not self._online and len(self._backlog) >= self._max_queued:
                raise QueueFull(self._max_queued)
            elif not self._online:
                self._backlog.append(message)
            else:
                self._send(message)

    def subscribe(self, patterns: Iterable[str], qos: int = 0, *, stored: bool = True) -> None:
        """Subscribe at once; while offline, at the reconnect."""
        wanted = tuple(dict.fromkeys(patterns))
        for pattern in wanted:
            check_pattern(pattern)
        with self._changed:
            self._require_open("subscribe")
            self._patterns.update(dict.fromkeys(wanted, qos))
            self._live_only = self._live_only - {*wanted} if stored else self._live_only | {*wanted}
            if self._online:
                self._subscribe_now(wanted)

    def unsubscribe(self, patterns: Iterable[str]) -> None:
        """Stop these patterns; unknown ones are ignored."""
        with self._changed:
            self._require_open("unsubscribe")
            for pattern in patterns:
                self._patterns.pop(pattern, None)

    def poll(self, timeout_s: float | None) -> list[Event]:
        """Wait for events; reconnects when the connection was lost and the broker is there."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            self._require_open("poll")
            while True:
                self._recover()
                if self._refused is not None:
                    refused, self._refused = self._refused, None
                    raise refused
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if self._inbox or self._woken or (left_s is not None and left_s <= 0):
                    self._woken = False
                    events, self._inbox = self._inbox, []
                    return events
                self._changed.wait(left_s)

    def wake(self) -> None:
        """Make `poll` return; may be called from any thread, also after `close`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until the queue of an interrupted connection is sent."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._require_open("flush")
            self._recover()
            while self._backlog:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
                self._recover()
        return True

    def close(self) -> None:
        """Leave the broker cleanly: no will."""
        with self._changed:
            if self._online:
                del self._broker._clients[self.client_id]
            self._open = self._online = False

    def _require_open(self, action: str) -> None:
        if not self._open:
            raise BusClosed(action)

    def _send(self, message: Delivery) -> None:
        self.stats.messages_out += 1
        self.stats.bytes_out += len(message.topic) + len(message.payload)
        self._broker._route(message)

    def _subscribe_now(self, patterns: tuple[str, ...]) -> None:
        refused = tuple(pattern for pattern in patterns if self._broker.refuse_pattern(pattern))
        granted = tuple(pattern for pattern in patterns if pattern not in refused)
        for pattern in refused:
            del self._patterns[pattern]
        if refused:
            self._refused = SubscribeRefused(refused, "not authorized")
        if granted:
            self._inbox.append(Subscribed(granted))
            self._broker._send_retained(self, [pattern for pattern in granted if pattern not in self._live_only])

    def _recover(self) -> None:
        """Reconnect, resubscribe and send what was queued, if the connection was lost and the broker is there."""
        if self._online:
            return
        try:
            self._broker._admit(self)
        except (BrokerUnreachable, BrokerRefused):
            return
        self.stats.reconnects += 1
        self._inbox.append(Connected(session_present=False, reconnect=True))
        self._subscribe_now(tuple(self._patterns))
        while self._backlog:
            self._send(self._backlog.popleft())
