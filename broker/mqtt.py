"""The bus over a real broker: paho-mqtt driven by the owner's `poll`, without a thread of its own.

Protocol: MQTT 5, or 3.1.1 where the broker has no 5. Sessions are clean: after a reconnect the subscriptions are
made again and QoS 1 messages without a PUBACK are sent again (so they may arrive twice), in the order of `publish`.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from paho.mqtt.client import MQTTv5
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.address import BrokerAddress, as_address
from broker.bus import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    DEFAULT_MAX_QUEUED,
    NO_PROPERTIES,
    BusStats,
    Event,
    Payload,
    Properties,
    Refused,
    Subscribed,
    Waits,
    Will,
)
from broker.connection import CLOSE_S, RECONNECT_MAX_S, VERSIONS, Connection, ConnectionState
from broker.errors import BusClosed, PayloadTooLarge, QueueFull, SubscribeRefused
from broker.message_properties import packed
from broker.paho_client import SocketClient, pack_topic
from broker.tls import client_context
from broker.topic_filters import check_pattern
from schemas.closing import Closing

logger = logging.getLogger(__name__)

ProtocolChoice = Literal["auto", "5", "3.1.1"]

MAX_BUFFERED_BYTES = 64_000_000
"""Bytes that may wait for a slow socket: above it QoS 0 is dropped and QoS 1 stays queued."""
PACKET_HEADER_BYTES = 16
"""Upper bound of a PUBLISH packet's bytes that are neither topic nor payload."""


MOST_LOSSES = 4
"""Of the connection in a row, without a PUBACK in between, until a message is given up."""

MAX_PACKET_BYTES = 268_435_460
"""The longest packet MQTT knows, of a broker that names no limit of its own."""


class _Queued(NamedTuple):
    topic: str
    payload: bytes
    retain: bool
    properties: Properties


def _context_for(address: BrokerAddress) -> ssl.SSLContext:
    return client_context(address.authority) if address.authority else ssl.create_default_context()


class MqttBus(Closing):
    """A `broker.bus.Bus` over paho-mqtt. See the port for the contract of each method."""

    def __init__(
        self,
        address: str | BrokerAddress,
        *,
        client_id: str,
        will: Will | None = None,
        protocol: ProtocolChoice = "auto",
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        keepalive_s: int = 30,
        connect_timeout_s: float = 10.0,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        max_queued: int = DEFAULT_MAX_QUEUED,
        max_inflight: int = 20,
        find: Callable[[], BrokerAddress] | None = None,
        longest_wait_s: float = RECONNECT_MAX_S,
    ) -> None:
        """Nothing is sent before `connect`.

        Args:
            address: a broker URL or a parsed one; its user name and password yield to the arguments.
            tls: the context for `mqtts://`; by default one that trusts the address' authority, or the system's.
            connect_timeout_s: bound of one reconnect attempt.
            max_payload_bytes: see `DEFAULT_MAX_PAYLOAD_BYTES`.
            max_queued: QoS 1 messages that may wait for their PUBACK.
            max_inflight: QoS 1 messages on their way at once, or the broker's receive maximum if that is lower.
                A connection keeps their order at any number; 1 would make each wait for the PUBACK before it.
            find: says before each attempt to connect again where the broker is by now; it is the same one.
            longest_wait_s: between two such attempts, once the broker has been away for long; see `absence_s`.

        Raises:
            BadBrokerUrl: `address` is not a broker URL.
        """
        self.address = as_address(address)
        self.client_id = client_id
        self._will = will
        self._protocol_choice = protocol
        self._username = username if username is not None else self.address.username
        self._password = password if password is not None else self.address.password
        self._max_payload_bytes = max_payload_bytes
        self._max_packet_bytes = MAX_PACKET_BYTES
        self._found_payload_bytes = max_payload_bytes
        self._max_queued = max_queued
        self._max_inflight = max_inflight
        self._window = max_inflight

        self._events: list[Event] = []
        self._stats = BusStats()
        self._patterns: dict[str, int] = {}
        self._live_only: frozenset[str] = frozenset()
        """Patterns on which stored messages are not wanted."""
        self._suback_of: dict[int, tuple[str, ...]] = {}
        self._refused: SubscribeRefused | None = None
        self._backlog: deque[_Queued] = deque()
        self._last_topic: str | None = None
        """Of the last message of QoS 0; one of the same length begins with the same bytes and needs no checks."""
        self._last_bytes = 0
        self._last_head = b""
        self._oldest_mid: int | None = None
        """Of the messages that had no PUBACK when the connection was lost, and how often it was lost with this one."""
        self._losses = 0
        self._link = Connection(
            self.address,
            self._make_client,
            self._events,
            on_lost=self._on_lost,
            tls=tls if tls is not None or not self.address.tls else _context_for(self.address),
            keepalive_s=keepalive_s,
            connect_timeout_s=connect_timeout_s,
            find=find,
            longest_wait_s=longest_wait_s,
        )

    @property
    def connected(self) -> bool:
        """True between CONNACK and the loss of the connection (as last seen by `poll`)."""
        return self._link.state is ConnectionState.ONLINE

    @property
    def protocol(self) -> str:
        """The MQTT version in use: "5" or "3.1.1"."""
        self._require_open("tell the protocol")
        return "5" if self._client.protocol == MQTTv5 else "3.1.1"

    @property
    def stats(self) -> BusStats:
        """Counters since the bus was made."""
        self._stats.reconnects = self._link.reconnects
        if self._link.state is not ConnectionState.NEW:
            self._client.count_wire()
        return self._stats

    @property
    def announced_payload_bytes(self) -> int:
        """The configured limit of a payload, or the broker's if it says one in CONNACK and that is lower."""
        return min(self._max_payload_bytes, self._max_packet_bytes - PACKET_HEADER_BYTES)

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload `publish` takes now: the announced limit, or `limit_payload`'s if that is lower."""
        return self._limit_bytes(0)

    def limit_payload(self, limit_bytes: int | None) -> None:
        """Take no larger payloads from now on; None forgets an earlier limit."""
        self._found_payload_bytes = self._max_payload_bytes if limit_bytes is None else limit_bytes
        self._last_topic = None

    def connect(self, timeout_s: float = 10.0) -> None:
        """Connect and block until CONNACK, trying MQTT 5 and then 3.1.1 when the protocol is "auto"."""
        self._link.connect(VERSIONS[self._protocol_choice], timeout_s)
        self._on_online()

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
    ) -> None:
        """Send a message with one write to the socket; see the port."""
        link, size = self._link, len(payload)
        online = link.state is ConnectionState.ONLINE
        if not online:
            self._require_open("publish")
        if topic is not self._last_topic or size != self._last_bytes or qos or retain:
            packed_topic = pack_topic(topic)
            limit_bytes = self._limit_bytes(len(packed_topic))
            if size > limit_bytes:
                raise PayloadTooLarge(size, limit_bytes)
            if qos:
                self._queue(_Queued(topic, bytes(payload), retain, properties))
                return
            self._last_head = link.client.publish_head(packed_topic, size, retain)
            self._last_topic, self._last_bytes = (None if retain else topic), size
        client = link.client
        if (
            online
            and client.buffered_bytes + size <= MAX_BUFFERED_BYTES
            and client.send_publish(self._last_head, payload)
        ):
            self._stats.messages_out += 1
        else:
            self._stats.dropped_qos0 += 1

    def _queue(self, message: _Queued) -> None:
        if len(self._backlog) + self._client.unacknowledged >= self._max_queued:
            raise QueueFull(self._max_queued)
        self._backlog.append(message)
        self._send_backlog()

    def subscribe(self, patterns: Iterable[str], qos: int = 0, *, stored: bool = True) -> None:
        """Subscribe with one SUBSCRIBE packet; while offline it is sent after the reconnect."""
        wanted = tuple(dict.fromkeys(patterns))
        for pattern in wanted:
            check_pattern(pattern)
        self._require_open("subscribe")
        self._patterns.update(dict.fromkeys(wanted, qos))
        self._live_only = self._live_only - {*wanted} if stored else self._live_only | {*wanted}
        self._send_subscribe(wanted)

    def unsubscribe(self, patterns: Iterable[str]) -> None:
        """Stop these patterns; unknown ones are ignored."""
        self._require_open("unsubscribe")
        known = [pattern for pattern in dict.fromkeys(patterns) if pattern in self._patterns]
        for pattern in known:
            del self._patterns[pattern]
        if self.connected and known:
            self._client.unsubscribe(known)

    def poll(self, timeout_s: float | None) -> list[Event]:
        """Wait for events; see the port."""
        link = self._link
        if link.state is not ConnectionState.ONLINE:
            self._require_open("poll")
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if link.turn(0.0 if self._events or self._refused or link.refused or link.woken else deadline_s):
                self._on_online()
            if self._backlog:
                self._send_backlog()
            if self._refused is not None:
                refused, self._refused = self._refused, None
                raise refused
            if link.refused is not None:
                no_member, link.refused = link.refused, None
                raise no_member
            if self._events or link.woken or (deadline_s is not None and time.monotonic() >= deadline_s):
                link.woken = False
                events = self._events[:]
                self._events.clear()  # the client appends to this very list
                return events

    def waits(self) -> Waits:
        """What there is to wait for where `poll` does not; see the port."""
        self._require_open("wait")
        link, client = self._link, self._client
        is_behind = client.may_have_more and client.has_more_to_read()
        is_lost = self.connected and not client.is_open
        has_news = bool(self._events or self._refused or link.refused or link.woken)
        until_s = 0.0 if is_behind or is_lost or has_news else link.due_s
        return Waits(link.wake_fd, client.socket(), client.want_write(), until_s)

    def wake(self) -> None:
        """Make `poll` return; may be called from any thread, also after `close`."""
        self._link.wake()

    def flush(self, timeout_s: float) -> bool:
        """Drive the connection until nothing waits to be sent or acknowledged."""
        self._require_open("flush")
        deadline_s = time.monotonic() + timeout_s
        while self._backlog or self._client.unacknowledged or self._client.want_write():
            if time.monotonic() >= deadline_s:
                return False
            if self._link.turn(deadline_s):
                self._on_online()
            self._send_backlog()
        return True

    def close(self) -> None:
        """Send what is buffered, DISCONNECT, free the sockets; within `CLOSE_S`, whatever the broker does."""
        deadline_s = time.monotonic() + CLOSE_S
        if self.connected:
            self.flush(CLOSE_S)
        self._link.close(deadline_s)

    @property
    def _client(self) -> SocketClient:
        return self._link.client

    def _make_client(self, version: MQTTProtocolVersion) -> SocketClient:
        client = SocketClient(self.client_id, version, self._stats, self._events)
        client.on_subscribe = self._on_suback
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        return client

    def _require_open(self, action: str) -> None:
        if self._link.state in (ConnectionState.NEW, ConnectionState.CLOSED):
            raise BusClosed(action)

    def _limit_bytes(self, topic_bytes: int) -> int:
        packet_room = self._max_packet_bytes - topic_bytes - PACKET_HEADER_BYTES
        return min(self._max_payload_bytes, self._found_payload_bytes, packet_room)

    def _on_online(self) -> None:
        """After CONNACK: subscriptions first, so that an answer to a queued message can't be missed."""
        greeting = self._link.greeting
        if greeting is not None:
            self._max_packet_bytes = greeting.max_packet_bytes or MAX_PACKET_BYTES
            self._window = min(self._max_inflight, greeting.receive_maximum or 65_535)
        self._last_topic = None
        self._suback_of.clear()
        self._send_subscribe(tuple(self._patterns))

    def _send_backlog(self) -> None:
        """Hand queued QoS 1 messages to paho, never more than the window, so that it can't resend more either."""
        client = self._client
        while (
            self._backlog
            and self.connected
            and client.unacknowledged < self._window
            and client.buffered_bytes < MAX_BUFFERED_BYTES
        ):
            message = self._backlog.popleft()
            limit_bytes = self._limit_bytes(len(message.topic.encode()) + 2)
            if len(message.payload) > limit_bytes:  # queued when another broker, or another limit, was there
                reason = f"over the limit of {limit_bytes:,} bytes"
                self._events.append(Refused(message.topic, len(message.payload), reason))
                continue
            extra = packed(message.properties) if client.protocol == MQTTv5 else None
            client.publish(message.topic, message.payload, 1, message.retain, extra)
            self._stats.messages_out += 1

    def _on_lost(self) -> None:
        """Give up a message with which the connection is lost again and again, lest it be for ever.

        That is what a broker with a limit that it does not announce does to MQTT 3.1.1: it reads how long the packet is
        and hangs up. What came before the packet it has acknowledged.
        """
        oldest_mid = self._client.oldest_mid
        self._losses = self._losses + 1 if oldest_mid is not None and oldest_mid == self._oldest_mid else 1
        self._oldest_mid = oldest_mid
        if self._losses < MOST_LOSSES:
            return
        self._losses = 0
        topic, size_bytes = self._client.give_up_largest()
        reason = f"the connection was lost {MOST_LOSSES} times with it on its way"
        self._events.append(Refused(topic, size_bytes, reason))

    def _send_subscribe(self, patterns: tuple[str, ...]) -> None:
        if not patterns or not self.connected:
            return
        topics: list[Any]
        if self._client.protocol == MQTTv5:
            topics = [(pattern, self._options(pattern)) for pattern in patterns]
        else:
            topics = [(pattern, self._patterns[pattern]) for pattern in patterns]
        _, mid = self._client.subscribe(topics)
        if mid is not None:
            self._suback_of[mid] = patterns

    def _options(self, pattern: str) -> SubscribeOptions:
        live_only = pattern in self._live_only
        handling = SubscribeOptions.RETAIN_DO_NOT_SEND if live_only else 0
        return SubscribeOptions(self._patterns[pattern], retainAsPublished=live_only, retainHandling=handling)

    def _on_suback(self, client: Any, userdata: Any, mid: int, codes: list[ReasonCode], properties: Any) -> None:
        patterns = self._suback_of.pop(mid, ())
        refused = {pattern: str(code) for pattern, code in zip(patterns, codes, strict=False) if code.is_failure}
        granted = tuple(pattern for pattern in patterns if pattern not in refused)
        if granted:
            self._events.append(Subscribed(granted))
        if refused:
            for pattern in refused:
                self._patterns.pop(pattern, None)
            self._refused = SubscribeRefused(refused, next(iter(refused.values())))
