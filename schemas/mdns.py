"""Messages of multicast DNS, as far as a fleet's host is found by them (RFC 6762, RFC 6763), as bytes (pure).

Nobody is believed because of them: they say where to ask for an invitation, no more.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.errors import MessageError

GROUP = "224.0.0.251"
PORT = 5353
SERVICE = ("_linguabus", "_tcp", "local")
MOST_BYTES = 9000
_MOST_RECORDS = 64
_MOST_JUMPS = 32
_A, _PTR, _TXT, _AAAA, _SRV, _ANY = 1, 12, 16, 28, 33, 255
_IN, _UNICAST = 1, 0x8000
_ANSWER = 0x8400
_LONG_TTL_S, _LEGACY_TTL_S = 120, 10
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")

Name = tuple[str, ...]


@dataclass(frozen=True)
class Announcement:
    """A fleet's host, as it announces itself.

    Attributes:
        fleet: the first digits of the fingerprint of the fleet's authority.
        port: where invitations are taken up.
        addresses: IP addresses of the host.
        protocol: the version that the fleet speaks.
    """

    fleet: str
    port: int
    addresses: tuple[str, ...]
    protocol: int


@dataclass(frozen=True)
class Record:
    """A resource record; ``at`` is where its data begins in the message."""

    name: Name
    kind: int
    data: bytes
    at: int


def question() -> bytes:
    """Who is there? Whoever asks from a port of its own is answered there."""
    return _HEADER.pack(0, 0, 1, 0, 0, 0) + _name(SERVICE) + struct.pack(">HH", _PTR, _IN | _UNICAST)


def asks_for_fleets(message: bytes) -> int | None:
    """The number of a question for fleets; None: it is another message.

    Raises:
        MessageError: it is none of DNS.
    """
    number, flags, questions, *_ = _header(message)
    if flags & 0x8000 or not 0 < questions <= _MOST_RECORDS:
        return None
    at = _HEADER.size
    for _ in range(questions):
        name, at = _read_name(message, at)
        kind, _ = _unpack(">HH", message, at)
        at += 4
        if name == SERVICE and kind in (_PTR, _ANY):
            return number
    return None


def answer(said: Announcement, number: int | None) -> bytes:
    """What a host says of itself.

    Args:
        number: of the question, where it is answered to its asker alone; None: to all.
    """
    ttl_s = _LONG_TTL_S if number is None else _LEGACY_TTL_S
    instance, host = (said.fleet, *SERVICE), (f"linguabus-{said.fleet}", "local")
    texts = (f"v={said.protocol}".encode(), f"id={said.fleet}".encode())
    records = [
        (SERVICE, _PTR, _name(instance)),
        (instance, _SRV, struct.pack(">HHH", 0, 0, said.port) + _name(host)),
        (instance, _TXT, b"".join(bytes([len(text)]) + text for text in texts)),
    ]
    for address in said.addresses:
        ip = ipaddress.ip_address(address.partition("%")[0])
        records.append((host, _A if ip.version == 4 else _AAAA, ip.packed))
    repeated = b"" if number is None else _name(SERVICE) + struct.pack(">HH", _PTR, _IN)
    head = _HEADER.pack(number or 0, _ANSWER, 1 if repeated else 0, 1, 0, len(records) - 1)
    body = (_name(name) + _RECORD.pack(kind, _IN, ttl_s, len(data)) + data for name, kind, data in records)
    return head + repeated + b"".join(body)


def announcements(message: bytes) -> tuple[Announcement, ...]:
    """The fleets that an answer is about; what is not whole is left out.

    Raises:
        MessageError: it is none of DNS.
    """
    records = list(_records(message))
    found = []
    for record in records:
        if record.kind != _SRV or record.name[1:] != SERVICE or len(record.data) < 7:
            continue
        _, _, port = _unpack(">HHH", message, record.at)
        host, _ = _read_name(message, record.at + 6)
        texts = {text for one in records if (one.kind, one.name) == (_TXT, record.name) for text in _texts(one.data)}
        versions = [text[2:] for text in texts if text.startswith("v=") and text[2:].isdecimal()]
        addresses = tuple(
            str(ipaddress.ip_address(one.data))
            for one in records
            if one.name == host and (one.kind, len(one.data)) in ((_A, 4), (_AAAA, 16))
        )
        fleet = record.name[0]
        if addresses and port and _is_id(fleet):
            found.append(Announcement(fleet, port, addresses, int(versions[0][:4]) if versions else 0))
    return tuple(found)


def _is_id(text: str) -> bool:
    return 0 < len(text) <= 64 and all(character in "0123456789abcdef" for character in text)


def _texts(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]].decode("ascii", "replace")
        at += 1 + data[at]


def _records(message: bytes) -> Iterator[Record]:
    _, flags, questions, *counts = _header(message)
    if not flags & 0x8000 or questions + sum(counts) > _MOST_RECORDS:
        return
    at = _HEADER.size
    for _ in range(questions):
        _, at = _read_name(message, at)
        at += 4
    for _ in range(sum(counts)):
        name, at = _read_name(message, at)
        kind, _, _, length = _unpack(_RECORD.format, message, at)
        at += _RECORD.size
        if at + length > len(message):
            raise MessageError("a record of DNS is cut off")
        yield Record(name, kind, message[at : at + length], at)
        at += length


def _header(message: bytes) -> tuple[int, ...]:
    if len(message) > MOST_BYTES:
        raise MessageError(f"{len(message)} bytes are too many for multicast DNS")
    return _unpack(_HEADER.format, message, 0)


def _unpack(layout: str, message: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, message, at)
    except struct.error:
        raise MessageError("a message of DNS is cut off") from None


def _name(labels: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"


def _read_name(message: bytes, at: int) -> tuple[Name, int]:
    """A name, in small letters, and where what follows it begins. Parts may stand further up in the message."""
    labels: list[str] = []
    behind = None
    for _ in range(_MOST_JUMPS):
        (length,) = _unpack(">B", message, at)
        if length >= 0xC0:
            (target,) = _unpack(">H", message, at)
            behind = at + 2 if behind is None else behind
            at = target & 0x3FFF
        elif length >= 0x40:
            raise MessageError("a name of DNS is of no known form")
        elif length == 0:
            return tuple(labels), at + 1 if behind is None else behind
        else:
            labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
            at += 1 + length
    raise MessageError("a name of DNS is too long")
