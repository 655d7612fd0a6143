"""A TCP proxy that understands MQTT packets: a bad link, on demand.

It stands between clients and a broker and can delay, limit the rate, cut, fall silent, and change, drop, repeat or
hold back single PUBLISH packets by topic; the framing stays intact whatever it does. Use one proxy per emulated link.
In front of a fleet's broker it ends TLS with the fleet's own certificate, and speaks TLS to the broker.

    with MqttProxy(broker.url) as proxy:
        proxy.up.delay_s = 0.010
        late = proxy.delay("linguabus/v1/segment/#", 2.0, overtake=True, when=every(10))
        bus = MqttBus(proxy.url, client_id="a")
"""

from __future__ import annotations

import heapq
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

from broker.address import parse_broker_url
from broker.tls import client_context, server_context
from broker.topic_filters import matches
from tests.support.members import FleetUrl
from tests.support.mqtt_packets import CONNECT, PUBLISH, Framer, MalformedPacket, Packet, Publish
from tests.support.polling import DEADLINE_S
from tests.support.tls_stream import Stream, TlsStream

QUEUE_BYTES = 4_000_000
"""Bytes that one direction of one connection may hold; then the sender feels the slow link."""


class Side(Enum):
    """A direction of travel."""

    UP = "client to broker"
    DOWN = "broker to client"


@dataclass(slots=True)
class Link:
    """One direction of the emulated link. `delay_s` and `rate_bytes_per_s` may be set at any time.

    The rate is shared by all connections of the proxy; a packet takes size / rate to go out, then `delay_s` to arrive.
    """

    side: Side
    delay_s: float = 0.0
    rate_bytes_per_s: float | None = None
    bytes: int = 0
    packets: int = 0
    publishes: int = 0
    _busy_until_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, size_bytes: int, is_publish: bool) -> None:
        """Count a packet that came in."""
        with self._lock:
            self.bytes += size_bytes
            self.packets += 1
            self.publishes += is_publish

    def arrival_s(self, size_bytes: int, now_s: float) -> float:
        """When a packet that is sent now arrives at the other end (monotonic clock)."""
        with self._lock:
            if self.rate_bytes_per_s is not None:
                self._busy_until_s = max(now_s, self._busy_until_s) + size_bytes / self.rate_bytes_per_s
                now_s = self._busy_until_s
            return now_s + self.delay_s


@dataclass(frozen=True, slots=True)
class Send:
    """One copy of a packet to pass on, `delay_s` later. With `overtake`, those behind it do not wait for it."""

    publish: Publish
    delay_s: float = 0.0
    overtake: bool = False


Action = Callable[[Publish], Iterable[Send]]
When = Callable[[Publish], bool]


@dataclass(eq=False, slots=True)
class Rule:
    """What happens to the PUBLISH packets that match. `hits` counts them; the first matching rule decides."""

    pattern: str
    action: Action
    side: Side | None
    when: When
    hits: int = 0

    def applies(self, publish: Publish, side: Side) -> bool:
        """True if this rule decides about the packet. Asks `when` once per packet whose topic and side match."""
        return self.side in (None, side) and matches(self.pattern, publish.topic) and self.when(publish)


def always(_: Publish) -> bool:
    """The default of `when`."""
    return True


def every(nth: int) -> When:
    """A `when` that is true for every nth matching packet, beginning with the nth."""
    counter = itertools.count(1)
    return lambda _: next(counter) % nth == 0


class MqttProxy:
    """A proxy on a free loopback port in front of `broker_url`; a context manager. All methods are thread-safe."""

    def __init__(self, broker_url: str) -> None:
        address = parse_broker_url(broker_url)
        self.up = Link(Side.UP)
        self.down = Link(Side.DOWN)
        self.refuse_new = False
        """While true, new connections are closed at once."""
        self.connections = 0
        """Connections taken so far."""
        self.malformed = 0
        """Connections closed because what came was not MQTT."""
        self._broker = (address.host, address.port)
        self._members = broker_url.members if isinstance(broker_url, FleetUrl) else None
        if self._members:
            self._as_server = server_context(self._members.fleet.server_file)
            self._as_client = client_context(self._members.fleet.authority)
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._open: set[_Connection] = set()
        self._silent = False
        self._unheard: list[socket.socket] = []
        """Connections that were asked for while the link was silent."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._acceptor = threading.Thread(target=self._accept, name="mqtt proxy", daemon=True)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The address for clients."""
        return FleetUrl(self.port, self._members) if self._members else f"mqtt://127.0.0.1:{self.port}"

    def rule(self, pattern: str, action: Action, *, side: Side | None = Side.UP, when: When = always) -> Rule:
        """Let `action` decide what becomes of matching PUBLISH packets; `side` None means both directions."""
        rule = Rule(pattern, action, side, when)
        with self._lock:
            self._rules.append(rule)
        return rule

    def drop(self, pattern: str, *, side: Side | None = Side.UP, when: When = always) -> Rule:
        """Lose matching packets. (With QoS 1 the sender waits for a PUBACK that never comes.)"""
        return self.rule(pattern, lambda _: (), side=side, when=when)

    def repeat(self, pattern: str, times: int = 2, *, side: Side | None = Side.UP, when: When = always) -> Rule:
        """Send matching packets `times` times in a row."""
        return self.rule(pattern, lambda publish: [Send(publish)] * times, side=side, when=when)

    def alter(
        self,
        pattern: str,
        change: Callable[[bytes], bytes],
        *,
        side: Side | None = Side.UP,
        when: When = always,
    ) -> Rule:
        """Replace the payload of matching packets; its length may change."""
        return self.rule(
            pattern,
            lambda publish: [Send(publish.with_payload(change(publish.payload)))],
            side=side,
            when=when,
        )

    def delay(
        self,
        pattern: str,
        delay_s: float,
        *,
        overtake: bool,
        side: Side | None = Side.UP,
        when: When = always,
    ) -> Rule:
        """Hold matching packets back; with `overtake` the ones behind go on, else they wait too."""
        return self.rule(pattern, lambda publish: [Send(publish, delay_s, overtake)], side=side, when=when)

    def remove(self, rule: Rule) -> None:
        """Forget a rule; unknown ones are ignored."""
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def cut(self) -> int:
        """Close all connections abruptly, without DISCONNECT; what is in flight is lost. Returns how many."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            connection.close()
        return len(connections)

    def fall_silent(self) -> None:
        """Let nothing pass in either direction, the end of a connection neither, until `speak`: a half-open link."""
        with self._lock:
            self._silent = True

    def speak(self) -> None:
        """Let pass what was held back since `fall_silent`. Connections asked for meanwhile come to nothing."""
        with self._lock:
            self._silent = False
            connections, unheard, self._unheard = list(self._open), self._unheard, []
        for sock in unheard:
            sock.close()
        for connection in connections:
            connection.link_changed()

    def close(self) -> None:
        """Cut everything and stop listening. Idempotent."""
        self.refuse_new = True
        self.speak()
        with suppress(OSError):  # closed before, or a platform where close() ends accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._acceptor.is_alive():
            self._acceptor.join()
        self.cut()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                silent = self._silent and not self.refuse_new
                if silent:
                    self._unheard.append(client)
            if silent:
                continue
            if self.refuse_new:
                client.close()
                continue
            with self._lock:
                if self._silent:
                    self._unheard.append(client)
                    continue
            try:
                broker = socket.create_connection(self._broker, timeout=DEADLINE_S)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            for sock in (client, broker):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, *self._streams(client, broker))
            with self._lock:
                self._open.add(connection)
            connection.start()

    def _streams(self, client: socket.socket, broker: socket.socket) -> tuple[Stream, Stream]:
        if not self._members:
            return client, broker
        return TlsStream(client, self._as_server), TlsStream(broker, self._as_client, self._broker[0])

    def _decide(self, publish: Publish, side: Side) -> Iterable[Send] | None:
        """What to send instead of this packet; None: the packet as it is."""
        with self._lock:
            for rule in self._rules:
                if rule.applies(publish, side):
                    rule.hits += 1
                    return list(rule.action(publish))
        return None

    def _forget(self, connection: _Connection) -> None:
        with self._lock:
            self._open.discard(connection)


class _Connection:
    """A client's connection and the one to the broker that belongs to it: two pumps."""

    def __init__(self, proxy: MqttProxy, client: Stream, broker: Stream) -> None:
        self.is_v5 = False
        self._proxy = proxy
        self._streams = (client, broker)
        self._pumps = (
            _Pump(self, proxy, proxy.up, client, broker),
            _Pump(self, proxy, proxy.down, broker, client),
        )

    def start(self) -> None:
        for pump in self._pumps:
            pump.start()

    def link_changed(self) -> None:
        """Look again at what may pass."""
        for pump in self._pumps:
            pump.link_changed()

    def close(self) -> None:
        """Close both sides now. Idempotent."""
        for stream in self._streams:
            with suppress(OSError):  # the peer was faster
                stream.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait in recv and send
            stream.close()
        for pump in self._pumps:
            pump.stop()
        self._proxy._forget(self)


class _Pump:
    """One direction of one connection: a thread that reads packets and one that sends them when they are due."""

    def __init__(self, connection: _Connection, proxy: MqttProxy, link: Link, source: Stream, target: Stream) -> None:
        self._connection = connection
        self._proxy = proxy
        self._link = link
        self._source = source
        self._target = target
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, bytes]] = []  # a heap of (when, order, packet)
        self._order = itertools.count()
        self._queued_bytes = 0
        self._last_due_s = 0.0
        self._sending = False
        self._stopped = False
        self._ended = False

    def start(self) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"mqtt proxy {self._link.side.value}", daemon=True).start()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def link_changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _read(self) -> None:
        framer = Framer()
        try:
            while data := self._source.recv(65_536):
                for packet in framer.feed(data):
                    self._take(packet)
        except MalformedPacket:
            self._proxy.malformed += 1
            self._connection.close()
        except OSError:
            pass  # reset, or closed from here
        with self._changed:
            self._ended = True  # what is queued, a DISCONNECT perhaps, still goes out, once the link lets it
            self._changed.notify_all()

    def _take(self, packet: Packet) -> None:
        is_publish = packet.kind == PUBLISH
        self._link.count(len(packet.data), is_publish)
        if packet.kind == CONNECT:
            self._connection.is_v5 = packet.connect_version() >= 5
        sends = None
        if is_publish and self._proxy._rules:
            sends = self._proxy._decide(packet.publish(is_v5=self._connection.is_v5), self._link.side)
        if sends is None:
            self._pass_on(packet.data, 0.0, overtake=False)
            return
        for send in sends:
            self._pass_on(send.publish.encode(), send.delay_s, overtake=send.overtake)

    def _pass_on(self, data: bytes, extra_s: float, *, overtake: bool) -> None:
        now_s = time.monotonic()
        due_s = self._link.arrival_s(len(data), now_s) + extra_s
        with self._changed:
            if not overtake:
                due_s = self._last_due_s = max(due_s, self._last_due_s)
            if due_s > now_s or self._due or self._sending or self._proxy._silent:
                heapq.heappush(self._due, (due_s, next(self._order), data))
                self._queued_bytes += len(data)
                self._changed.notify_all()
                while self._queued_bytes > QUEUE_BYTES and not self._stopped:
                    self._changed.wait()
                return
            self._sending = True
        try:
            self._target.sendall(data)  # nothing to wait for: no hand-over to the other thread
        finally:
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _write(self) -> None:
        try:
            while (data := self._next()) is not None:
                self._target.sendall(data)
                with self._changed:
                    self._sending = False
                    self._queued_bytes -= len(data)
                    self._changed.notify_all()
        except OSError:
            pass  # closed
        self._connection.close()

    def _next(self) -> bytes | None:
        """Wait for the next packet to be due; None at the end of the stream."""
        with self._changed:
            while not self._stopped:
                if self._proxy._silent:
                    self._changed.wait()
                    continue
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0 and not self._sending:
                    self._sending = True
                    return heapq.heappop(self._due)[2]
                if self._ended and not self._due and not self._sending:
                    return None
                self._changed.wait(None if wait_s is None or wait_s <= 0 else wait_s)
        return None
