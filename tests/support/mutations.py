"""Messages as nobody sends them: damaged bytes, JSON whose members are others, altered frames with a right checksum."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from schemas.codec import HEADER_BYTES

_CHECKSUM = slice(HEADER_BYTES - 4, HEADER_BYTES)
_NUMBERS = (0, 1, -1, 2, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**300, 0.5, -0.0, 1e308)
_STRINGS = ("", " ", "a", "main", "+", "#", "a/b", "..", "\x00", "\ud800", "ä" * 40, "x" * 300, "1-1", "0" * 16, "NaN")
_NESTED = 200
_WORDS = ("NaN", "Infinity", "-Infinity", "1e999", "01", "'a'", "{}{}", "\ufeff{}", "null", "[]", '"', "\\u0000")


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes after a few bits have changed, a piece is missing, doubled or in another place, or something follows."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        if not found:
            return chance.randbytes(chance.randint(0, 60))
        begin = chance.randrange(len(found))
        end = min(len(found), begin + chance.randint(1, 12))
        match chance.randrange(6):
            case 0:
                found[begin] ^= 1 << chance.randrange(8)
            case 1:
                found[begin:end] = chance.randbytes(end - begin)
            case 2:
                del found[begin:end]
            case 3:
                found[begin:begin] = found[begin:end]
            case 4:
                found = found[:begin]
            case 5:
                found += chance.randbytes(chance.randint(1, 20))
    return bytes(found)


def altered_json(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """A JSON message in which one value is another one, one member is missing or too many, or nesting has no end."""
    document = json.loads(data)
    places = list(_places(document))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        holder, key = chance.choice(places)
        match chance.randrange(8):
            case 0:
                holder[key] = chance.choice(_NUMBERS)
            case 1:
                holder[key] = chance.choice(_STRINGS)
            case 2:
                holder[key] = chance.choice((None, True, False, [], {}, [[]], [None] * 300))
            case 3:
                holder[key] = json.loads(chance.choice(others))
            case 4 if isinstance(holder, dict):
                holder.pop(key, None)
            case 5 if isinstance(holder, dict):
                holder[chance.choice(_STRINGS)] = holder.get(key)
            case 6:
                other, place = chance.choice(places)
                holder[key] = other[place] if not _holds(other, place, holder) else 0
            case _:
                holder[key] = _next_to(holder[key] if _has(holder, key) else 0, chance)
        places = list(_places(document)) or [({"": 0}, "")]
    text = json.dumps(document)
    if chance.random() < 0.05:
        word = chance.choice((*_WORDS, "[" * _NESTED, '{"a":' * _NESTED))
        at = chance.randrange(len(text))
        text = text[:at] + word + text[at:]
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Every (holder, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in list(items):
        yield value, key
        yield from _places(member)


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _holds(other: Any, place: Any, holder: Any) -> bool:
    """Would it hold itself? Then JSON could not be made of it."""
    return not _has(other, place) or any(found is holder for found, _ in _places([other[place]]))


def _next_to(value: Any, chance: random.Random) -> Any:
    """A value that is nearly the same."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + chance.choice((-1, 1, 0.5, 2**31))
    if isinstance(value, str):
        at = chance.randint(0, len(value))
        return value[:at] + chance.choice(_STRINGS) + value[at:]
    if isinstance(value, list):
        return value * 2 if chance.random() < 0.5 else value[1:]
    return value


def altered_frames(data: bytes, chance: random.Random) -> bytes:
    """Frames of which the first is another one, with the checksum that its content asks for."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(min(len(found), HEADER_BYTES + 20))
        found[at] = chance.choice((0, 1, 2, 3, 4, 5, 127, 128, 255, chance.randrange(256)))
    if len(found) >= HEADER_BYTES:
        payload_bytes = struct.unpack_from("<I", found, HEADER_BYTES - 8)[0]
        payload = found[HEADER_BYTES : HEADER_BYTES + payload_bytes]
        found[_CHECKSUM] = struct.pack("<I", zlib.crc32(payload, zlib.crc32(found[: HEADER_BYTES - 4])))
    return bytes(found)
