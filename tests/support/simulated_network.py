"""MQTT in simulated time: a broker and its connections, which can be cut, fall silent, and lose what is on its way.

It keeps the promises of MQTT and no others: order per connection; QoS 1 is sent again after a reconnection, and so may
arrive twice; a will is published when the broker notices that a connection is gone; sessions are clean.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from broker import topic_filters
from broker.bus import (
    DEFAULT_MAX_PAYLOAD_BYTES,
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

LATENCY_S = 0.001
RECONNECT_S = 0.3
"""Between two attempts to reach the broker."""
BROKER_PATIENCE = 1.5
"""Times the keep-alive, after which a broker gives a silent connection up."""
CLIENT_PATIENCE = 2.0
"""Times the keep-alive, after which a client does."""

matches = functools.lru_cache(maxsize=100_000)(topic_filters.matches)

Fate = Callable[[str, bytes], Sequence[tuple[bytes, float]]]
"""(topic, payload) -> what arrives of it at one receiver, and how many seconds later than usual."""


def intact(topic: str, payload: bytes) -> Sequence[tuple[bytes, float]]:
    """What a healthy network does."""
    return ((payload, 0.0),)


class Clock:
    """Simulated time, and what happens when."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self.at(self.now_s + delay_s, action)

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        """Do something at a time, or now if that is over."""
        heapq.heappush(self._due, (max(at_s, self.now_s), next(self._order), action))

    def step(self) -> None:
        """Do what comes next."""
        at_s, _, action = heapq.heappop(self._due)
        self.now_s = at_s
        action()


@dataclass(eq=False)
class _Connection:
    """One TCP connection, as the broker sees it."""

    bus: SimulatedBus
    patterns: dict[str, int] = field(default_factory=dict)
    is_open: bool = True
    held: list[Callable[[], None]] = field(default_factory=list)
    """What would have passed since the link fell silent."""

    def send(self, action: Callable[[], None], extra_s: float = 0.0) -> None:
        """Have something arrive at the other end, unless the connection ends before."""

        def arrive() -> None:
            if self.bus.link_is_silent:
                self.held.append(arrive)
            elif self.is_open:
                action()

        self.bus.network.clock.after(LATENCY_S + extra_s, arrive)


class SimulatedBroker:
    """Routes messages between `SimulatedBus` connections."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.is_up = True
        self.retained: dict[str, bytes] = {}
        self.connections: dict[str, _Connection] = {}
        self.fate: Fate = intact
        self.seen: Callable[[str, bytes], None] = lambda topic, payload: None
        """Is shown every message."""
        self._receivers: dict[str, list[tuple[_Connection, int]]] = {}
        """Who has subscribed to a topic, until somebody comes, goes or subscribes."""

    def stop(self, *, forget: bool) -> None:
        """End as if the power failed: nobody's will is published."""
        self.is_up = False
        if forget:
            self.retained.clear()
        for connection in list(self.connections.values()):
            self._end(connection, has_will=False)

    def admit(self, bus: SimulatedBus) -> _Connection:
        """Take a connection; an older one of the same client is over."""
        older = self.connections.get(bus.client_id)
        if older:
            self._end(older, has_will=True)
        connection = self.connections[bus.client_id] = _Connection(bus)
        self._receivers.clear()
        return connection

    def lose(self, bus: SimulatedBus) -> None:
        """A connection ended without a word."""
        connection = self.connections.get(bus.client_id)
        if connection:
            self._end(connection, has_will=True)

    def leave(self, bus: SimulatedBus) -> None:
        """A client has said good-bye."""
        connection = self.connections.get(bus.client_id)
        if connection:
            self._end(connection, has_will=False)

    def _end(self, connection: _Connection, *, has_will: bool) -> None:
        connection.is_open = False
        del self.connections[connection.bus.client_id]
        self._receivers.clear()
        connection.bus.lost(connection)
        will = connection.bus.will
        if has_will and will:
            self.route(will.topic, will.payload, will.qos, will.retain)

    def subscribe(self, connection: _Connection, patterns: tuple[str, ...], qos: int) -> None:
        """Take a SUBSCRIBE: the acknowledgement, then what is retained."""
        connection.patterns.update(dict.fromkeys(patterns, qos))
        self._receivers.clear()
        connection.send(lambda: connection.bus.receive(Subscribed(patterns)))
        for topic, payload in self.retained.items():
            if any(matches(pattern, topic) for pattern in patterns):
                delivery = Delivery(topic, payload, qos, True)
                connection.send(functools.partial(connection.bus.receive, delivery))

    def unsubscribe(self, connection: _Connection, patterns: Iterable[str]) -> None:
        """Take an UNSUBSCRIBE."""
        for pattern in patterns:
            connection.patterns.pop(pattern, None)
        self._receivers.clear()

    def route(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Hand a message to whoever has subscribed to it."""
        self.seen(topic, payload)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        if topic not in self._receivers:
            self._receivers[topic] = list(self._find_receivers(topic))
        for connection, granted in self._receivers[topic]:
            for arrives, extra_s in self.fate(topic, payload):
                delivery = Delivery(topic, arrives, min(qos, granted), False)
                connection.send(functools.partial(connection.bus.receive, delivery), extra_s)

    def _find_receivers(self, topic: str) -> Iterator[tuple[_Connection, int]]:
        for connection in self.connections.values():
            granted = [limit for pattern, limit in connection.patterns.items() if matches(pattern, topic)]
            if granted:
                yield connection, max(granted)


class SimulatedBus:
    """One participant's connection: a `broker.bus.Bus` whose ``poll`` never waits."""

    def __init__(
        self,
        network: SimulatedBroker,
        client_id: str,
        *,
        will: Will | None = None,
        keepalive_s: float = 30.0,
        wake: Callable[[], None],
    ) -> None:
        """``wake`` is called whenever ``poll`` has something."""
        self.network = network
        self.client_id = client_id
        self.will = will
        self.keepalive_s = keepalive_s
        self.wake = wake
        self.stats = BusStats()
        self.link_is_up = True
        self.link_is_silent = False
        self.is_frozen = False
        """Its process stands still."""
        self.max_payload_bytes = self.announced_payload_bytes = DEFAULT_MAX_PAYLOAD_BYTES
        self._events: list[Event] = []
        self._patterns: dict[str, int] = {}
        self._unacknowledged: dict[int, tuple[str, bytes, bool]] = {}
        self._numbers = itertools.count()
        self._connection: _Connection | None = None
        self._was_connected = False
        self._closed = False
        self._silences = itertools.count(1)
        self._silence = 0

    # --- the port ---------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def connect(self, timeout_s: float = 10.0) -> None:
        """Begin to reach the broker."""
        self._reach()

    def limit_payload(self, limit_bytes: int | None) -> None:
        self.max_payload_bytes = limit_bytes or DEFAULT_MAX_PAYLOAD_BYTES

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,  # lost, as on MQTT 3.1.1
    ) -> None:
        data = bytes(payload)
        if qos == 0:
            if self._connection:
                self._connection.send(functools.partial(self.network.route, topic, data, 0, retain))
            return
        number = next(self._numbers)
        self._unacknowledged[number] = (topic, data, retain)
        self._send(number)

    def _send(self, number: int) -> None:
        connection = self._connection
        if connection is None:
            return
        topic, data, retain = self._unacknowledged[number]

        def arrive() -> None:
            self.network.route(topic, data, 1, retain)
            connection.send(lambda: self._unacknowledged.pop(number, None) and None)

        connection.send(arrive)

    def subscribe(self, patterns: Iterable[str], qos: int = 0, *, stored: bool = True) -> None:
        wanted = tuple(dict.fromkeys(patterns))
        self._patterns.update(dict.fromkeys(wanted, qos))
        self._ask_for(wanted, qos)

    def _ask_for(self, patterns: tuple[str, ...], qos: int) -> None:
        connection = self._connection
        if connection and patterns:
            connection.send(lambda: self.network.subscribe(connection, patterns, qos))

    def unsubscribe(self, patterns: Iterable[str]) -> None:
        known = [pattern for pattern in patterns if self._patterns.pop(pattern, None) is not None]
        connection = self._connection
        if connection:
            connection.send(lambda: self.network.unsubscribe(connection, known))

    def poll(self, timeout_s: float | None = 0.0) -> list[Event]:
        events, self._events = self._events, []
        return events

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        """Say good-bye."""
        self._closed = True
        self.network.leave(self)
        self._connection = None

    def kill(self) -> None:
        """Its process is gone: the system closes the connection, and nothing is said."""
        self._closed = True
        self._connection = None
        if not self.link_is_silent:
            self.network.lose(self)
        else:  # nobody is told
            self.network.clock.after(BROKER_PATIENCE * self.keepalive_s, lambda: self.network.lose(self))

    # --- what happens to it -----------------------------------------------------------------------------------

    def receive(self, event: Event) -> None:
        """Something has arrived."""
        if not self._closed:
            self._events.append(event)
            self.wake()

    def lost(self, connection: _Connection) -> None:
        """The connection ended at the broker's side, which a silent link does not tell."""
        if self._connection is connection and not self.link_is_silent:
            self._give_up("connection lost")

    def _give_up(self, reason: str) -> None:
        self._connection = None
        self.receive(Disconnected(reason))
        self._retry()

    def _retry(self) -> None:
        self.network.clock.after(RECONNECT_S, self._reach)

    def _reach(self) -> None:
        if self._closed or self._connection:
            return
        if self.is_frozen or not self.network.is_up or not self.link_is_up or self.link_is_silent:
            self._retry()
            return
        self._connection = self.network.admit(self)
        self._events.append(Connected(False, self._was_connected))
        self._was_connected = True
        for qos in (0, 1):
            self._ask_for(tuple(pattern for pattern, wanted in self._patterns.items() if wanted == qos), qos)
        for number in list(self._unacknowledged):
            self._send(number)
        self.wake()

    def cut(self) -> None:
        """Lose the connection; there is no other until ``mend``."""
        self.link_is_up = False
        self.drop()

    def drop(self) -> None:
        """Lose the connection."""
        self.network.lose(self)

    def mend(self) -> None:
        """Let it have a connection again."""
        self.link_is_up = True

    def fall_silent(self) -> None:
        """Let nothing pass, and tell nobody."""
        self.link_is_silent = True
        silence = self._silence = next(self._silences)
        clock, connection = self.network.clock, self._connection
        if connection is None:
            return

        def broker_gives_up() -> None:
            if connection.is_open and self.link_is_silent and self._silence == silence:
                self.network.lose(self)

        def client_gives_up() -> None:
            if self._connection is connection and self.link_is_silent and self._silence == silence:
                self._give_up("no answer to a ping")

        clock.after(BROKER_PATIENCE * self.keepalive_s, broker_gives_up)
        clock.after(CLIENT_PATIENCE * self.keepalive_s, client_gives_up)

    def speak(self) -> None:
        """Let pass what was held back."""
        self.link_is_silent = False
        connection = self._connection
        if connection is None:
            return
        if not connection.is_open:  # the broker gave it up meanwhile
            self._give_up("connection reset")
            return
        held, connection.held = connection.held, []
        for arrive in held:
            self.network.clock.after(LATENCY_S, arrive)

    def freeze(self) -> None:
        """Its process stands still: nobody answers the broker."""
        self.is_frozen = True
        silence = self._silence = next(self._silences)

        def broker_gives_up() -> None:
            if self.is_frozen and self._silence == silence:
                self.network.lose(self)

        self.network.clock.after(BROKER_PATIENCE * self.keepalive_s, broker_gives_up)

    def thaw(self) -> None:
        self.is_frozen = False
        self.wake()
