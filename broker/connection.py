"""One connection to a broker that mends itself: dial, greet, wait for the socket, reconnect with back-off.

Plumbing under `broker.mqtt`: it knows sockets and paho, and nothing of subscriptions or queues. Everything runs in
the owner's `turn`; only dialling uses a thread (`broker.dial`), since name resolution can't be bounded.
"""

from __future__ import annotations

import enum
import logging
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from paho.mqtt.client import ConnectFlags, DisconnectFlags, MQTTv5, MQTTv311
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import MalformedPacket, Properties  # type: ignore[attr-defined]  # moved in 2.2, importable here
from paho.mqtt.reasoncodes import ReasonCode

from broker.address import BrokerAddress
from broker.bus import Connected, Disconnected, Event
from broker.dial import BackgroundDial, unreachable
from broker.errors import HOW_TO_JOIN, BrokerRefused, BrokerUnreachable, BusClosed, MemberRefused
from broker.paho_client import SocketClient
from schemas.back_off import absence_s, back_off_s, out_of_step

logger = logging.getLogger(__name__)

MAX_EVENTS_PER_TURN = 1_000
MAX_READS_PER_TURN = 1_000
"""Bounds of one `turn`: what came meanwhile is read in the next one, after the owner and the clock had their say."""
MAX_RECEIVED_BYTES = 2_000_000
"""Longest packet that the broker is to pass on to us: nothing of the contract is longer, and a longer one would have to
be read to its end before it could be thrown away. Only MQTT 5 can say so."""
MALFORMED = (MalformedPacket, struct.error, ValueError, IndexError, KeyError)
"""What paho lets escape when a packet does not add up: the peer is no broker, or a broken one."""
RECONNECT_MIN_S = 0.2
RECONNECT_MAX_S = 8.0
STABLE_S = 5.0
"""A connection that lived this long resets the back-off; a broker that accepts and kicks is not hammered."""
REFUSED_S = 300.0
"""Between two attempts of a member whose key is refused: nothing but a word on the fleet's host changes that."""
CLOSE_S = 1.0
_READABLE, _WRITABLE = select.POLLIN, select.POLLOUT
UNSUPPORTED_PROTOCOL_VERSION = (0x01, 0x84)  # in CONNACK of MQTT 3.1.1 and of MQTT 5
UNKNOWN_KEY = (0x04, 0x05, 0x86, 0x87)

_WOKEN = b"w"
_DIALLED = b"d"


class ConnectionState(enum.Enum):
    """NEW -> ONLINE -> (WAITING -> DIALLING -> GREETING -> ONLINE)* -> CLOSED."""

    NEW = enum.auto()
    ONLINE = enum.auto()
    WAITING = enum.auto()
    DIALLING = enum.auto()
    GREETING = enum.auto()
    CLOSED = enum.auto()


class Greeting(NamedTuple):
    """What the broker said in its CONNACK."""

    code: ReasonCode
    session_present: bool
    max_packet_bytes: int | None
    receive_maximum: int | None


class Connection:
    """A `SocketClient` and the socket under it. All without an underscore is for reading only."""

    def __init__(
        self,
        address: BrokerAddress,
        make_client: Callable[[MQTTProtocolVersion], SocketClient],
        events: list[Event],
        *,
        on_lost: Callable[[], None],
        tls: ssl.SSLContext | None,
        keepalive_s: int,
        connect_timeout_s: float,
        find: Callable[[], BrokerAddress] | None,
        longest_wait_s: float,
    ) -> None:
        self.state = ConnectionState.NEW
        self.woken = False
        self.reconnects = 0
        self.greeting: Greeting | None = None
        self._address = address
        self._find = find or (lambda: address)
        self._make_client = make_client
        self._events = events
        self._on_lost = on_lost
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._connect_timeout_s = connect_timeout_s
        self._connack: Greeting | None = None
        self._lost_reason = ""
        self._dial: BackgroundDial | None = None
        self.refused: MemberRefused | None = None
        """Why the connection is not made again, until somebody has read it."""
        self._failures = 0
        self._longest_wait_s = longest_wait_s
        self._online_since_s = self._lost_s = 0.0
        self.due_s = 0.0  # by state: next keep-alive check, next attempt, end of the greeting

        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self.wake_fd = self._wake_in.fileno()
        self._poller = select.poll()
        self._poller.register(self.wake_fd, _READABLE)
        self._watched: object = None
        self._watched_fd = -1
        self._watched_mask = 0

    def connect(self, versions: tuple[MQTTProtocolVersion, ...], timeout_s: float) -> None:
        """Connect with the first of `versions` that the broker speaks; raises as `Bus.connect` does."""
        if self.state is not ConnectionState.NEW:
            raise BusClosed("connect a second time")
        deadline_s = time.monotonic() + timeout_s
        greeting: Greeting | None = None
        for left, version in zip(range(len(versions) - 1, -1, -1), versions, strict=True):
            self.client = self._prepare(version)
            # A broker that does not know this version may also just wait for more: keep time for the next one.
            now_s = time.monotonic()
            greeting = self._greet(now_s + (deadline_s - now_s) / (left + 1))
            if greeting is not None and greeting.code.value not in UNSUPPORTED_PROTOCOL_VERSION:
                break
        if greeting is None:
            doubt = "is it an MQTT broker" if self._address.tls else "is it an MQTT broker, and one without TLS"
            raise unreachable(self._address, f"no CONNACK ({doubt}?)")
        if greeting.code.is_failure:
            raise self._refusal(greeting.code)
        self._go_online(greeting, reconnect=False)

    def _refusal(self, code: ReasonCode) -> BrokerRefused:
        if self._address.tls and not self._address.username:
            return BrokerRefused(str(self._address), str(code), f"this device is no member there: {HOW_TO_JOIN}")
        if self._address.authority and code.value in UNKNOWN_KEY:
            return MemberRefused(str(self._address), str(code), self._address.username or "this device")
        return BrokerRefused(str(self._address), str(code))

    def turn(self, until_s: float | None) -> bool:
        """Wait for the socket, a wake, `until_s` (monotonic clock; None: no limit) or the next timer.

        Deliveries, `Connected` and `Disconnected` are appended to the events. Returns True if the link is back.
        """
        now_s = time.monotonic()
        if until_s is None or until_s > self.due_s:
            until_s = self.due_s
        if self.state is ConnectionState.ONLINE:
            due = now_s >= self.due_s
            if self.client.is_open:
                self._wait(until_s, now_s)
            if due and self.client.is_open:  # not before an answer that lay in the socket is read
                self.client.loop_misc()
                self.due_s = now_s + self._keepalive_s / 6
            if not self.client.is_open:
                self._go_offline()
            return False
        self._wait(until_s, now_s)
        return self._recover(time.monotonic())

    def wake(self) -> None:
        """End a `turn` and set `woken`. Thread-safe, also after `close`."""
        self._signal(_WOKEN)

    def close(self, deadline_s: float) -> None:
        """DISCONNECT if online, behind what still waits to be sent, then free everything. Idempotent."""
        online, self.state = self.state is ConnectionState.ONLINE, ConnectionState.CLOSED
        if self._dial is not None:
            self._dial.abandon()
        if online:
            self.client.disconnect()
            while self.client.socket() is not None and time.monotonic() < deadline_s:
                self._wait(deadline_s, time.monotonic())
        if hasattr(self, "client"):
            self.client.drop()
        self._wake_in.close()
        self._wake_out.close()

    def _wait(self, until_s: float, now_s: float) -> None:
        """Wait until `until_s` for one of the sockets, then read and write what is possible."""
        client = self.client
        if client.has_news:  # asked here, because it is on the way of every token
            self._watch()
        # What the last turn read and did not take in, the readiness of the socket does not announce.
        is_behind = client.may_have_more and client.has_more_to_read()
        for fd, mask in self._poller.poll(0.0 if is_behind else max(0.0, until_s - now_s) * 1e3):
            if fd == self.wake_fd:
                self._drain_wakes()
                continue
            if mask & _WRITABLE:
                client.loop_write()
            if mask != _WRITABLE:
                try:
                    client.loop_read()  # without a call more: it is on the way of every token
                except MALFORMED as error:
                    self._drop_malformed(error)
                is_behind = client.may_have_more and client.has_more_to_read()
        if is_behind:
            self._read_on()

    def _read_on(self) -> None:
        """Take in what was read beyond the first packet, as much as a turn may."""
        client, events = self.client, self._events
        try:
            for _ in range(MAX_READS_PER_TURN):
                if not client.may_have_more or not client.has_more_to_read() or len(events) >= MAX_EVENTS_PER_TURN:
                    break
                client.loop_read()
        except MALFORMED as error:
            self._drop_malformed(error)

    def _drop_malformed(self, error: Exception) -> None:
        logger.debug("%s sent a malformed packet: %r", self._address, error)
        self._lost_reason = f"malformed packet ({error})"
        self.client.drop()

    def _watch(self) -> None:
        """Let the poller know of a new or closed socket and of the wish to write."""
        self.client.has_news = False
        sock = self.client.socket()
        if sock is not self._watched:
            if self._watched is not None:
                self._poller.unregister(self._watched_fd)
            self._watched, self._watched_mask = sock, 0
            if sock is not None:
                self._watched_fd = sock.fileno()
        if sock is None:
            return
        mask = _READABLE | _WRITABLE if self.client.want_write() else _READABLE
        if mask != self._watched_mask:
            self._poller.register(self._watched_fd, mask)
            self._watched_mask = mask

    def _drain_wakes(self) -> None:
        try:
            signals = self._wake_in.recv(4_096)
        except BlockingIOError:
            return
        if _WOKEN in signals:
            self.woken = True

    def _signal(self, signal: bytes) -> None:
        try:
            self._wake_out.send(signal)
        except BlockingIOError:
            pass  # full of signals: the reader will wake anyway
        except OSError:
            pass  # closed

    def _prepare(self, version: MQTTProtocolVersion) -> SocketClient:
        client = self._make_client(version)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        options: dict[str, Any] = {}
        if version == MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MAX_RECEIVED_BYTES
            options = {"clean_start": True, "properties": properties}
        client.connect_async(self._address.host, self._address.port, self._keepalive_s, **options)
        return client

    def _greet(self, deadline_s: float) -> Greeting | None:
        """Dial, send CONNECT and block until CONNACK. None: the connection was closed or time ran out."""
        self._connack = None
        self.client.adopt(self._dial_until(deadline_s))
        while self._connack is None and self.client.socket() is not None:
            if time.monotonic() >= deadline_s:
                self.client.drop()
            else:
                self._wait(deadline_s, time.monotonic())
        return self._connack

    def _dial_until(self, deadline_s: float) -> socket.socket:
        """A connected socket; raises BrokerUnreachable, at the deadline even if the name is still being looked up."""
        self._dial = self._start_dial(max(0.01, deadline_s - time.monotonic()))
        while not self._dial.done():
            now_s = time.monotonic()
            if now_s >= deadline_s:
                self._dial.abandon()
                raise unreachable(self._address, "timed out")
            self._wait(deadline_s, now_s)
        dialled, self._dial = self._dial, None
        return dialled.take()

    def _start_dial(self, timeout_s: float) -> BackgroundDial:
        return BackgroundDial(self._find(), self._tls, timeout_s, lambda: self._signal(_DIALLED))

    def _on_connect(
        self, client: Any, userdata: Any, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self._connack = Greeting(
            code,
            flags.session_present,
            getattr(properties, "MaximumPacketSize", None),
            getattr(properties, "ReceiveMaximum", None),
        )

    def _on_disconnect(
        self,
        client: Any,
        userdata: Any,
        flags: DisconnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._lost_reason = f"the broker ended the connection: {code}"
        elif not self._lost_reason:
            self._lost_reason = "connection lost" if code == _UNSPECIFIED else str(code).lower()

    def _go_online(self, greeting: Greeting, *, reconnect: bool) -> None:
        now_s = time.monotonic()
        self.state = ConnectionState.ONLINE
        self.greeting = greeting
        self._lost_reason = ""
        self._online_since_s = now_s
        self.due_s = now_s + self._keepalive_s / 6
        self.reconnects += reconnect
        self._events.append(Connected(greeting.session_present, reconnect))

    def _go_offline(self) -> None:
        reason = self._lost_reason or "connection lost"
        logger.info("%s: %s; reconnecting", self._address, reason)
        self._events.append(Disconnected(reason))
        self._on_lost()
        self._lost_s = time.monotonic()
        if self._lost_s - self._online_since_s >= STABLE_S:
            self._failures = 0
        self._schedule_attempt()

    def _schedule_attempt(self) -> None:
        """Wait between half and all of a delay that doubles with each failure, and grows with the broker's absence."""
        longest_s = absence_s(time.monotonic() - self._lost_s, RECONNECT_MAX_S, self._longest_wait_s)
        delay_s = out_of_step(back_off_s(RECONNECT_MIN_S, self._failures, longest_s))
        self._failures += 1
        self._lost_reason = ""
        self.state = ConnectionState.WAITING
        self.due_s = time.monotonic() + delay_s

    def _recover(self, now_s: float) -> bool:
        """One step of the reconnection. Returns True when it is complete."""
        if self.state is ConnectionState.WAITING and now_s >= self.due_s:
            self._dial = self._start_dial(self._connect_timeout_s)
            self.state = ConnectionState.DIALLING
            self.due_s = now_s + self._connect_timeout_s + 1.0
        elif self.state is ConnectionState.DIALLING and self._dial is not None and self._dial.done():
            self._take_dialled(self._dial, now_s)
        elif self.state is ConnectionState.DIALLING and now_s >= self.due_s:  # name resolution may take any time
            self.due_s = now_s + self._connect_timeout_s
        elif self.state is ConnectionState.GREETING:
            return self._check_greeting(now_s)
        return False

    def _take_dialled(self, dialled: BackgroundDial, now_s: float) -> None:
        self._dial = None
        try:
            sock = dialled.take()
        except BrokerUnreachable as error:
            logger.debug("%s", error)
            self._schedule_attempt()
            return
        self._connack = None
        self.state = ConnectionState.GREETING
        self.due_s = now_s + self._connect_timeout_s
        self.client.adopt(sock)

    def _check_greeting(self, now_s: float) -> bool:
        if self._connack is not None and not self._connack.code.is_failure:
            self._go_online(self._connack, reconnect=True)
            return True
        if self._connack is not None or self.client.socket() is None or now_s >= self.due_s:
            refusal = None if self._connack is None else self._refusal(self._connack.code)
            self.client.drop()
            self._schedule_attempt()
            if isinstance(refusal, MemberRefused):
                self.refused = refusal
                self.due_s = now_s + out_of_step(REFUSED_S)
            else:
                logger.warning("%s does not take the connection back: %s", self._address, refusal or "no answer")
        return False


VERSIONS: dict[str, tuple[MQTTProtocolVersion, ...]] = {
    "auto": (MQTTv5, MQTTv311),
    "5": (MQTTv5,),
    "3.1.1": (MQTTv311,),
}
_UNSPECIFIED = ReasonCode(PacketTypes.DISCONNECT, "Unspecified error")
