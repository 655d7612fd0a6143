"""The properties of a PUBLISH of MQTT 5 (section 3.3.2.3): those that the bus knows, read and written (pure)."""

from __future__ import annotations

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from broker.bus import NO_PROPERTIES, Properties

_EXPIRY, _RESPONSE_TOPIC, _CORRELATION, _SUBSCRIPTION = 0x02, 0x08, 0x09, 0x0B
_FIXED_BYTES = {0x01: 1, _EXPIRY: 4, 0x23: 2}
_STRINGS = {0x03: 1, _RESPONSE_TOPIC: 1, _CORRELATION: 1, 0x26: 2}
"""How many strings follow, each with its length in two bytes before it."""


def unpacked(data: bytes) -> Properties:
    """The properties of a message that has arrived.

    Raises:
        ValueError, IndexError: they are malformed.
    """
    found, at = NO_PROPERTIES, 0
    while at < len(data):
        kind, at = data[at], at + 1
        if kind == _SUBSCRIPTION:
            _, at = variable_length(data, at)
            continue
        if kind in _FIXED_BYTES:
            value, at = _taken(data, at, _FIXED_BYTES[kind])
        elif kind in _STRINGS:
            for _ in range(_STRINGS[kind]):
                length, at = _taken(data, at, 2)
                value, at = _taken(data, at, int.from_bytes(length, "big"))
        else:
            raise ValueError(f"property {kind:#x} is none of a PUBLISH")
        if kind == _EXPIRY:
            found = found._replace(expires_s=int.from_bytes(value, "big"))
        elif kind == _RESPONSE_TOPIC:
            found = found._replace(response_topic=str(value, "utf-8"))
        elif kind == _CORRELATION:
            found = found._replace(correlation=value)
    return found


def _taken(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """So many bytes, and where they end."""
    if at + size > len(data):
        raise ValueError("properties shorter than they say")
    return data[at : at + size], at + size


def variable_length(packet: bytes | memoryview, at: int) -> tuple[int, int]:
    """The variable byte integer at `at`, and where it ends (MQTT 5, section 1.5.5)."""
    value = shift = 0
    while True:
        byte = packet[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def packed(properties: Properties) -> PahoProperties | None:
    """Properties for paho to send; None where there are none."""
    if properties == NO_PROPERTIES:
        return None
    made = PahoProperties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if properties.response_topic:
        made.ResponseTopic = properties.response_topic
    if properties.correlation:
        made.CorrelationData = properties.correlation
    if properties.expires_s is not None:
        made.MessageExpiryInterval = properties.expires_s
    return made
