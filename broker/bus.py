"""The bus port: what nodes and the orchestrator need from MQTT, and nothing else.

It is poll-based and owned by one thread. The owner calls `poll`, gets a list of events, computes, and
publishes; a publish writes to the socket at once, so no token waits for another thread. Only `wake`
may be called from other threads. `broker.mqtt.MqttBus` and `broker.memory.MemoryBus` are twins behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self, runtime_checkable

Payload = bytes | bytearray | memoryview

DEFAULT_MAX_PAYLOAD_BYTES = 1_900_000
"""Mosquitto 2.1 lowers its `max_packet_size` to 2,000,000 bytes and disconnects a sender above it, and an
MQTT 3.1.1 client is never told: so the limit is kept here, below it, with room for topic and header."""

DEFAULT_MAX_QUEUED = 10_000
"""QoS 1 messages that may wait for their PUBACK before `publish` raises `QueueFull`."""


class Properties(NamedTuple):
    """What MQTT 5 carries beside a message. A connection of MQTT 3.1.1 has none: they are lost on it, both ways."""

    response_topic: str = ""
    """Where who sent the message wants its answer; empty: nowhere in particular."""
    correlation: bytes = b""
    """Comes back with the answer."""
    expires_s: int | None = None
    """The broker gives the message to nobody any more after so long; as it arrives, what is left of that."""


NO_PROPERTIES = Properties()


class Delivery(NamedTuple):
    """A message on one of our patterns. `retain`: it was stored before we subscribed.

    On a pattern that is not for those, it is being stored now.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties = NO_PROPERTIES


@dataclass(frozen=True, slots=True)
class Connected:
    """CONNACK arrived. After a `reconnect` all subscriptions are being renewed; a `Subscribed` follows."""

    session_present: bool
    reconnect: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost (never after our own `close`). `poll` reconnects by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """SUBACK arrived: what is published on these patterns from now on is delivered. Again after a reconnect."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A QoS 1 message was given up: the broker did not take it, or ended the connection each time it was sent."""

    topic: str
    size_bytes: int
    """Of its payload."""
    reason: str


Event = Delivery | Connected | Disconnected | Subscribed | Refused


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when we vanish without a clean `close`."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(slots=True)
class BusStats:
    """Counters since the bus was made. Bytes are of MQTT packets with headers; messages are PUBLISH packets.

    On the wire there are also TLS, TCP and IP: as the system counts them, or else estimated.
    """

    reconnects: int = 0
    dropped_qos0: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    wire_in: int = 0
    wire_out: int = 0


class HasDescriptor(Protocol):
    """Something that the system can wait for."""

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Waits:
    """What a bus waits for.

    Attributes:
        wake: descriptor that can be read once there is something to do, beside the connection.
        connection: to the broker; None while there is none.
        writes: something waits to be written to it.
        until_s: when there is something to do by time alone (monotonic clock); 0.0: now.
    """

    wake: int
    connection: HasDescriptor | None
    writes: bool
    until_s: float


class Bus(Protocol):
    """One connection to a broker, owned by one thread. A context manager: leaving it calls `close`."""

    @property
    def client_id(self) -> str: ...

    @property
    def stats(self) -> BusStats: ...

    @property
    def connected(self) -> bool:
        """True between CONNACK and the loss of the connection (as last seen by `poll`)."""

    @property
    def announced_payload_bytes(self) -> int:
        """The configured limit of a payload, or the broker's if it says one in CONNACK and that is lower."""

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload `publish` takes now: the announced limit, or `limit_payload`'s if that is lower."""

    def limit_payload(self, limit_bytes: int | None) -> None:
        """Refuse larger payloads from now on, because the broker was found not to pass them on. None lifts the limit.

        Brokers have limits that they do not announce; see `broker.payload_probe`.
        """

    def connect(self, timeout_s: float = 10.0) -> None:
        """Connect and block until CONNACK; `poll` then yields a first `Connected`.

        Raises:
            BrokerUnreachable: nothing speaks MQTT there, or no CONNACK within `timeout_s`.
            BrokerRefused: the broker said no (bad credentials, not authorised, ...).
        """

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        """Send a message without waiting for the broker. An empty retained payload clears the stored one.

        `properties` are of QoS 1 alone.

        QoS 0 while disconnected, or while the send buffer is full, is dropped: see `stats.dropped_qos0`.
        QoS 1 while disconnected is queued and sent, in order, after the reconnect; it may arrive twice. What the
        broker refuses, or can't be sent without losing the connection, ends as a `Refused` event.
        The payload is copied: the caller may reuse its buffer.

        Raises:
            PayloadTooLarge: over `max_payload_bytes`; nothing was sent.
            QueueFull: too many QoS 1 messages wait for their PUBACK; nothing was queued.
            BadTopic: empty, or with a wildcard.
            BusClosed: before `connect` or after `close`.
        """

    def subscribe(self, patterns: Iterable[str], qos: int = 0, *, stored: bool = True) -> None:
        """Ask for messages on these patterns (`+`, `#`); remembered and renewed at each reconnect.

        `stored=False`: not for those that were stored before. Only a broker that speaks MQTT 5 can leave them out.
        The SUBACK arrives as one `Subscribed` event with these patterns. If the broker refuses any of them
        the next `poll` raises `SubscribeRefused` and the refused ones are forgotten.

        Raises:
            BadTopic: a malformed pattern.
            BusClosed: before `connect` or after `close`.
        """

    def unsubscribe(self, patterns: Iterable[str]) -> None:
        """Stop these patterns; unknown ones are ignored. What is on its way may still be delivered."""

    def poll(self, timeout_s: float | None) -> list[Event]:
        """Wait until something happens, `wake` is called or `timeout_s` is over (None: no limit); return events.

        Returns every event at hand, oldest first; empty after a `wake` or a time-out. Sends what is still
        buffered, keeps the connection alive and reconnects. Never calls user code.

        Raises:
            SubscribeRefused: see `subscribe`.
            MemberRefused: the connection is lost, and the broker does not take this member's key any more. Who polls on
                nevertheless tries again every few minutes.
            BusClosed: before `connect` or after `close`.
        """

    def wake(self) -> None:
        """Make a running (or else the next) `poll` return. The only method other threads may call."""

    def flush(self, timeout_s: float) -> bool:
        """Drive the connection until every QoS 1 message has its PUBACK and the send buffer is empty.

        Events that arrive meanwhile are kept for the next `poll`. Returns False when time ran out.
        """

    def close(self) -> None:
        """Flush briefly, send DISCONNECT (so no will is published) and free the socket. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class WatchedBus(Bus, Protocol):
    """A bus that an event loop can drive, which waits itself, and then calls ``poll(0.0)``."""

    def waits(self) -> Waits:
        """What there is to wait for, after the last call of any method."""
