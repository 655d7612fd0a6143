"""MQTT packets as far as a proxy must understand them: where one ends, and what a PUBLISH says (3.1.1 and 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

CONNECT = 0x10
PUBLISH = 0x30


class MalformedPacket(Exception):
    """The bytes are not MQTT."""


@dataclass(frozen=True, slots=True)
class Publish:
    """A PUBLISH packet. `properties` are MQTT 5's, packed and without their length; None in MQTT 3.1.1."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None
    properties: bytes | None = None

    def with_payload(self, payload: bytes) -> Publish:
        """The same packet around another payload."""
        return replace(self, payload=payload)

    def encode(self) -> bytes:
        """The whole packet, fixed header included."""
        topic = self.topic.encode()
        parts = [struct.pack("!H", len(topic)), topic]
        if self.qos:
            parts.append(struct.pack("!H", self.packet_id))
        if self.properties is not None:
            parts += [encode_length(len(self.properties)), self.properties]
        body = b"".join([*parts, self.payload])
        flags = self.dup << 3 | self.qos << 1 | self.retain
        return bytes([PUBLISH | flags]) + encode_length(len(body)) + body


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet, `data` being all of its bytes and `body_at` the length of its fixed header."""

    data: bytes
    body_at: int

    @property
    def kind(self) -> int:
        """The packet type in the upper four bits, as in CONNECT = 0x10."""
        return self.data[0] & 0xF0

    def publish(self, *, is_v5: bool) -> Publish:
        """Parse a PUBLISH. Raises MalformedPacket."""
        flags, at = self.data[0] & 0x0F, self.body_at
        try:
            topic, at = _string(self.data, at)
            qos = flags >> 1 & 3
            packet_id = None
            if qos:
                (packet_id,) = struct.unpack_from("!H", self.data, at)
                at += 2
            properties = None
            if is_v5:
                size, at = _length(self.data, at)
                properties = self.data[at : at + size]
                at += size
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise MalformedPacket(str(error)) from error
        if at > len(self.data):
            raise MalformedPacket("PUBLISH shorter than its header says")
        return Publish(topic, self.data[at:], qos, bool(flags & 1), bool(flags & 8), packet_id, properties)

    def connect_version(self) -> int:
        """The protocol level of a CONNECT: 4 for MQTT 3.1.1, 5 for MQTT 5. Raises MalformedPacket."""
        try:
            _, at = _string(self.data, self.body_at)
            return self.data[at]
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise MalformedPacket(str(error)) from error


class Framer:
    """Cuts a byte stream into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that `data` completes. Raises MalformedPacket."""
        self._buffer += data
        packets: list[Packet] = []
        while True:
            try:
                size, body_at = _length(self._buffer, 1)
            except IndexError:
                return packets
            end = body_at + size
            if len(self._buffer) < end:
                return packets
            packets.append(Packet(bytes(self._buffer[:end]), body_at))
            del self._buffer[:end]


def encode_length(value: int) -> bytes:
    """A variable byte integer."""
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """The variable byte integer at `at` and where it ends. Raises IndexError if it is not complete yet."""
    value = 0
    for index in range(4):
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise MalformedPacket("a length of more than four bytes")


def _string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("!H", data, at)
    end = at + 2 + size
    return data[at + 2 : end].decode(), end
