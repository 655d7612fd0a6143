"""paho's MQTT client without its threads: a handed-in socket, buffered reads, counters.

paho asks for the fixed header of each packet byte by byte, which costs three or four system calls a message, and
connects with a blocking call. Both go through methods it calls on itself, and those are overridden here:

* `_create_socket` returns a socket that `broker.dial` has connected,
* `_sock_recv` serves those reads from a buffer filled by one large read,
* `_sock_send` and `_packet_queue` count bytes, so that the caller sees how much still waits to be sent,
* `_handle_on_message` appends to a list instead of matching callbacks under two locks.

They have been there under these names since paho-mqtt 2.0; `tests/unit/test_bus_paho_hooks.py` fails when that changes.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from broker.bus import BusStats, Delivery, Event, Payload

READ_BYTES = 65_536
PUBLISH = 0x30


class SocketClient(paho.Client):
    """A paho client driven by its owner: `adopt` a socket, then `loop_read` and `loop_write` when it is ready."""

    def __init__(
        self, client_id: str, protocol: MQTTProtocolVersion, stats: BusStats, events: list[Event]
    ) -> None:
        """Deliveries are appended to `events`; `stats` gets bytes, messages in and drops."""
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            # paho would reconnect by itself, blocking, from within loop_read.
            reconnect_on_failure=False,
        )
        self.max_inflight_messages_set(0)  # no limit here: the bus keeps the window
        self.events = events
        self.buffered_bytes = 0
        self._stats = stats
        self._handed: socket.socket | None = None
        self._read = b""
        self._read_at = 0
        self._filled = False

    def adopt(self, sock: socket.socket) -> MQTTErrorCode:
        """Send CONNECT on this connected socket; QoS 1 messages without PUBACK are sent again after CONNACK."""
        self._stats.dropped_qos0 += sum(
            packet["command"] & 0xF0 == PUBLISH and packet["qos"] == 0 for packet in self._out_packet
        )
        self._read, self._read_at, self._filled = b"", 0, False
        self.buffered_bytes = 0
        self._handed = sock
        return self.reconnect()

    def drop(self) -> None:
        """Close the socket without DISCONNECT; the broker publishes the will."""
        self._sock_close()

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages that have no PUBACK yet."""
        return len(self._out_messages)

    def has_more_to_read(self) -> bool:
        """True when another `loop_read` finds bytes that the readiness of the socket does not announce."""
        if self._read_at < len(self._read) or self._filled:
            return True
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def publish_qos0(self, topic: str, payload: Payload, retain: bool) -> bool:
        """Write a QoS 0 PUBLISH to the socket, or behind what waits there. False: the connection is gone."""
        return self.publish(topic, bytes(payload), 0, retain).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _create_socket(self) -> socket.socket:
        sock, self._handed = self._handed, None
        if sock is None:
            raise RuntimeError("reconnect() without adopt()")
        return sock

    def _sock_recv(self, bufsize: int) -> bytes:
        start = self._read_at
        if start < len(self._read):
            self._read_at = start + bufsize
            return self._read[start : start + bufsize]
        self._filled = False
        asked = bufsize if bufsize > READ_BYTES else READ_BYTES
        data = super()._sock_recv(asked)
        self._stats.bytes_in += len(data)
        self._filled = len(data) == asked
        if len(data) <= bufsize:
            return data
        self._read = data
        self._read_at = bufsize
        return data[:bufsize]

    def _sock_send(self, buf: bytes | bytearray) -> int:
        sent = super()._sock_send(buf)
        self._stats.bytes_out += sent
        self.buffered_bytes -= sent
        return sent

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, *args: Any, **options: Any
    ) -> MQTTErrorCode:
        self.buffered_bytes += len(packet)
        return super()._packet_queue(command, packet, *args, **options)

    def _handle_on_message(self, message: paho.MQTTMessage) -> None:
        self._stats.messages_in += 1
        self.events.append(Delivery(message.topic, message.payload, message.qos, message.retain))
