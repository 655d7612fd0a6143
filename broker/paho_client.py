"""paho's MQTT client without its threads and with a short way for messages.

Measured on a message of 1.2 KB over MQTT 5, paho spends 45 us of one core per hop: it reads the fixed header byte by
byte (four system calls), builds property objects for each PUBLISH in both directions, and takes seven locks. It also
connects with a blocking call. All of that goes through methods it calls on itself, and those are overridden here:

* `_create_socket` returns a socket that `broker.dial` has connected,
* `loop_read` and `_handle_publish` parse a PUBLISH of QoS 0 or 1 straight into a `Delivery`,
* `_sock_recv` serves the small reads from what `loop_read` read and did not understand,
* `_sock_close` notes that there is no socket, and forgets what was read from it,
* `_sock_send` and `_packet_queue` count bytes, so that the bus knows how much still waits to be sent,
* `_handle_pubackcomp` turns a PUBACK that says no into a `Refused`; paho ignores those, and at a code that the standard
  has no PUBACK for, such as Mosquitto's for a message over its `message_size_limit`, it ends the connection,

and `send_publish` writes a PUBLISH to the socket itself whenever nothing waits before it. Everything else (CONNECT,
SUBSCRIBE, acknowledgements, resending) stays paho's, and so does the keep-alive: not seeing the messages, it pings once
per interval even on a busy connection. The names are those of paho-mqtt 2.1 and 2.2;
`tests/unit/broker/test_paho_client.py` fails if they change, and `tests/acceptance/test_paho_versions.py` runs the
contract with the oldest and the newest version that may be installed.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from broker.bus import NO_PROPERTIES, BusStats, Delivery, Event, Payload, Refused
from broker.message_properties import unpacked, variable_length
from broker.topic_filters import check_topic
from broker.wire_bytes import estimated, wire_bytes

READ_BYTES = 65_536
MAX_TOPICS, MAX_KEPT_TOPIC_BYTES = 1_024, 512
"""Bounds of the topics whose strings are kept: peers choose them."""
PUBLISH = 0x30
_FAILURE = 0x80
"""From here on a reason code is one."""
_new_tuple = tuple.__new__
_SUCCESS = MQTTErrorCode.MQTT_ERR_SUCCESS


@dataclass(slots=True)
class _Alike:
    """The part before the payload that PUBLISH packets of QoS 0 with one topic and one length have in common."""

    topic: str = ""
    head: bytes = b""
    head_bytes: int = 0
    packet_bytes: int = -1


class SocketClient(paho.Client):
    """A paho client driven by its owner: `adopt` a socket, then `loop_read` and `loop_write` when it is ready."""

    def __init__(self, client_id: str, protocol: MQTTProtocolVersion, stats: BusStats, events: list[Event]) -> None:
        """Make a client that appends deliveries to `events` and counts bytes, messages and drops in `stats`."""
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            # paho would reconnect by itself, blocking, from within loop_read.
            reconnect_on_failure=False,
        )
        self.max_inflight_messages_set(0)  # no limit here: the bus keeps the window
        self.buffered_bytes = 0
        self.is_open = False
        """There is a socket. As `may_have_more` no method or property: asked in every turn."""
        self.may_have_more = False
        """False: the last `loop_read` surely read all there was."""
        self.has_news = True
        """The socket is another, or what waits to be written, since the owner set this to False."""
        self._stats = stats
        self._events = events
        self._wire_before = (0, 0)
        """Bytes sent and received on the wire by connections that are over."""
        self._is_v5 = protocol == MQTTProtocolVersion.MQTTv5
        self._handed: socket.socket | None = None
        self._read = b""
        self._read_at = 0
        self._filled = self._is_tls = False
        self._arrived = select.poll()
        """Says whether there is anything to read from the socket."""
        self._topics: dict[bytes, str] = {}
        self._alike = _Alike()
        """Of the last packet that came alone: the next one is probably like it, and need not be parsed."""

    def adopt(self, sock: socket.socket) -> MQTTErrorCode:
        """Send CONNECT on this connected socket; QoS 1 messages without PUBACK are sent again after CONNACK."""
        self._stats.dropped_qos0 += sum(
            packet["command"] & 0xF0 == PUBLISH and packet["qos"] == 0 for packet in self._out_packet
        )
        self.buffered_bytes = 0
        self._handed = sock
        return self.reconnect()

    def drop(self) -> None:
        """Close the socket without DISCONNECT; the broker publishes the will."""
        self._sock_close()

    def count_wire(self) -> None:
        """Bring the count of bytes on the wire up to date."""
        stats, (sent, received) = self._stats, self._wire_before
        found = wire_bytes(self._sock) if self._sock is not None else (0, 0)
        if found is None:
            stats.wire_out = estimated(stats.bytes_out, stats.messages_out)
            stats.wire_in = estimated(stats.bytes_in, stats.messages_in)
        else:
            stats.wire_out, stats.wire_in = sent + found[0], received + found[1]

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages that have no PUBACK yet."""
        return len(self._out_messages)

    @property
    def oldest_mid(self) -> int | None:
        """The message id of the oldest QoS 1 message without PUBACK; None without any."""
        return next(iter(self._out_messages), None)

    def give_up_largest(self) -> tuple[str, int]:
        """Stop sending the largest of the QoS 1 messages without PUBACK. Returns its topic and its payload's size."""
        message = max(self._out_messages.values(), key=lambda message: len(message.payload))
        del self._out_messages[message.mid]
        return message.topic, len(message.payload)

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read once: a PUBLISH that is whole is taken here, what comes after anything else is left to paho."""
        self.may_have_more = True
        if self._in_packet["command"] or self._read_at < len(self._read) or self._sock is None:
            return super().loop_read(max_packets)
        try:
            self._read = data = self._sock.recv(READ_BYTES)
        except OSError:  # it comes again, and is dealt with, when paho reads
            return super().loop_read(max_packets)
        size = len(data)
        self._stats.bytes_in += size
        alike = self._alike
        if size == alike.packet_bytes and data.startswith(alike.head):
            # What Delivery() does, less a function: after a long computation each is some microseconds.
            self._events.append(_new_tuple(Delivery, (alike.topic, data[alike.head_bytes :], 0, False, NO_PROPERTIES)))
            self._stats.messages_in += 1
            self._read_at, self._filled = size, False
            self.may_have_more = self._is_tls
            return _SUCCESS
        self._filled = size == READ_BYTES
        self._read_at = at = 0
        while at < size and data[at] & 0xF0 == PUBLISH:
            try:
                body_at, length = at + 3, data[at + 1]
                if length < 0x80:
                    body_at = at + 2
                elif data[at + 2] < 0x80:
                    length = (length & 0x7F) | data[at + 2] << 7
                else:
                    length, body_at = variable_length(data, at + 1)
            except IndexError:
                break
            stop = body_at + length
            if stop > size:
                break
            self._read_at = stop
            code = self._take_publish(data[at], data, body_at, stop)
            if code:
                return self._loop_rc_handle(code)
            if stop - at == size:
                self._remember(data)
            at = stop
        if at < size or not size:
            return super().loop_read(max_packets)
        self.may_have_more = self._filled or self._is_tls
        return _SUCCESS

    def _remember(self, data: bytes) -> None:
        """Remember the head of a PUBLISH that came alone and has been taken."""
        event = self._events[-1]
        if isinstance(event, Delivery) and (event.qos, event.retain, event.properties) == (0, False, NO_PROPERTIES):
            head_bytes = len(data) - len(event.payload)
            self._alike = _Alike(event.topic, data[:head_bytes], head_bytes, len(data))

    def has_more_to_read(self) -> bool:
        """True when another `loop_read` finds bytes: those that the readiness of the socket does not announce.

        Over TLS also those that it does: a read gives one record, and brokers make one of each message.
        """
        if self._read_at < len(self._read) or self._filled:
            return True
        return isinstance(self._sock, ssl.SSLSocket) and (self._sock.pending() > 0 or bool(self._arrived.poll(0)))

    def publish_head(self, packed_topic: bytes, size_bytes: int, retain: bool) -> bytes:
        """The part of a QoS 0 PUBLISH before its payload."""
        properties = b"\0" if self._is_v5 else b""
        head = _publish_head(PUBLISH | retain, len(packed_topic) + len(properties) + size_bytes)
        return b"".join((head, packed_topic, properties))

    def send_publish(self, head: bytes, payload: Payload) -> bool:
        """Write a PUBLISH to the socket, or behind what waits there. False: the connection is gone."""
        if self._sock is None:
            return False
        packet = b"".join((head, payload))
        sent = 0
        if not self._out_packet:
            try:
                sent = self._sock.send(packet)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
                return False
            self._stats.bytes_out += sent
        if sent < len(packet):
            rest = bytearray(memoryview(packet)[sent:])
            self._packet_queue(PUBLISH, rest, 0, 0, paho.MQTTMessageInfo(0))
        return True

    def _create_socket(self) -> socket.socket:
        sock, self._handed = self._handed, None
        if sock is None:
            raise RuntimeError("reconnect() without adopt()")
        self.is_open = self.has_news = True
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        return sock

    def _sock_close(self) -> None:
        self.is_open, self.has_news = False, True
        # Nobody could acknowledge it any more, and who waits until all is read would wait for ever.
        self._read, self._read_at, self._filled = b"", 0, False
        self.count_wire()
        self._wire_before = self._stats.wire_out, self._stats.wire_in
        super()._sock_close()

    def _fill(self, size: int) -> bytes:
        self._filled = False
        data = super()._sock_recv(size)
        self._stats.bytes_in += len(data)
        self._filled = len(data) == size
        return data

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._read_at >= len(self._read):
            if bufsize > READ_BYTES:
                return self._fill(bufsize)
            self._read, self._read_at = self._fill(READ_BYTES), 0
        start = self._read_at
        self._read_at = start + bufsize
        return self._read[start : start + bufsize]

    def _sock_send(self, buf: bytes | bytearray) -> int:
        sent = super()._sock_send(buf)
        self._stats.bytes_out += sent
        self.buffered_bytes -= sent
        self.has_news = True
        return sent

    def _packet_queue(self, command: int, packet: bytes | bytearray, *args: Any, **options: Any) -> MQTTErrorCode:
        self.buffered_bytes += len(packet)
        self.has_news = True
        return super()._packet_queue(command, packet, *args, **options)

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if len(packet) > 2 and packet[2] >= _FAILURE:
            message = self._out_messages.get(packet[0] << 8 | packet[1])
            if message is not None:
                self._events.append(Refused(message.topic, len(message.payload), _reason(packet[2])))
            del packet[2:]
            self._in_packet["remaining_length"] = 2
        return super()._handle_pubackcomp(cmd)

    def _handle_publish(self) -> MQTTErrorCode:
        packet = bytes(self._in_packet["packet"])
        return self._take_publish(self._in_packet["command"], packet, 0, len(packet))

    def _take_publish(self, command: int, data: bytes, at: int, stop: int) -> MQTTErrorCode:
        """Turn the PUBLISH whose body is data[at:stop] into a Delivery.

        Raises ValueError, IndexError or struct.error if it is malformed.
        """
        topic_at = at + 2
        at = topic_at + (data[at] << 8 | data[at + 1])
        packed = data[topic_at:at]
        topic = self._topics.get(packed) or self._new_topic(packed)
        qos = (command >> 1) & 3
        mid, properties = 0, NO_PROPERTIES
        if qos:
            (mid,) = struct.unpack_from("!H", data, at)
            at += 2
        if self._is_v5:
            if data[at]:
                size, at = variable_length(data, at)
                properties = unpacked(data[at : min(at + size, stop)])
                at += size
            else:
                at += 1
        if at > stop:
            raise ValueError("PUBLISH shorter than its header says")
        self._stats.messages_in += 1
        self._events.append(Delivery(topic, data[at:stop], qos, bool(command & 1), properties))
        if qos:
            return self._send_puback(mid)  # never QoS 2: nothing is subscribed at it
        return _SUCCESS

    def _new_topic(self, packed: bytes) -> str:
        """The topic as text: one string for the same topic from now on, so that its hash is computed once."""
        topic = str(packed, "utf-8")
        if len(packed) <= MAX_KEPT_TOPIC_BYTES:
            if len(self._topics) >= MAX_TOPICS:
                self._topics.clear()
            self._topics[packed] = topic
        return topic


def _reason(code: int) -> str:
    """A failure's name. Brokers answer with codes of other packets, too; DISCONNECT has nearly all of them."""
    for kind in (PacketTypes.PUBACK, PacketTypes.DISCONNECT):
        with suppress(KeyError, ValueError):  # the one before paho 2.2
            return str(ReasonCode(kind, identifier=code)).lower()
    return f"reason code {code:#x}"


@lru_cache(maxsize=1_024)
def _publish_head(command: int, size: int) -> bytes:
    """The fixed header: the command and the packet's length as a variable byte integer."""
    head = bytearray((command,))
    while True:
        size, low = size >> 7, size & 0x7F
        head.append(low | 0x80 if size else low)
        if not size:
            return bytes(head)


@lru_cache(maxsize=1_024)
def pack_topic(topic: str) -> bytes:
    """A topic in UTF-8 with its length before it, as PUBLISH has it.

    Raises:
        BadTopic: it may not be published on.
    """
    check_topic(topic)
    encoded = topic.encode()
    return struct.pack("!H", len(encoded)) + encoded
