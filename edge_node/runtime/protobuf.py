"""Protocol buffers' wire format without a schema: phones have no library for ONNX's files (pure).

Reading copies nothing, and looks at nothing that was not asked for: a message is a list of where its fields are.
"""

from __future__ import annotations

import struct

from edge_node.errors import NotProtobuf

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Kinds of fields, in the lowest three bits of a tag; groups, which ONNX does not have, are refused."""
MAX_FIELDS = 500_000
"""Of a message: the list of them takes some 100 bytes for each, however few bytes they have."""
_LONGEST_VARINT = 10
_CONTINUED = bytes(range(0x80, 0x100))

Field = tuple[int, int, int]
"""A tag, and where the field's bytes begin and end; for a varint, its value and 0."""


def tag(number: int, kind: int) -> int:
    """The tag of a field."""
    return number << 3 | kind


def fields(data: bytes, begin: int, end: int) -> list[Field]:
    """The fields of the message data[begin:end], in their order.

    Raises:
        NotProtobuf: it is no message, or has too many fields.
    """
    found: list[Field] = []
    place = begin
    while place < end:
        key = data[place]
        place += 1
        if key > 0x7F:
            key, place = _varint(data, place - 1, end)
        kind = key & 7
        if kind == LENGTH:
            stop = data[place] if place < end else 0x80
            place += 1
            if stop > 0x7F:
                stop, place = _varint(data, place - 1, end)
            stop += place
            found.append((key, place, stop))
            place = stop
        elif kind == VARINT:
            value = data[place] if place < end else 0x80
            place += 1
            if value > 0x7F:
                value, place = _varint(data, place - 1, end)
            found.append((key, value, 0))
        elif kind in (FIXED32, FIXED64):
            stop = place + (4 if kind == FIXED32 else 8)
            found.append((key, place, stop))
            place = stop
        else:
            raise NotProtobuf(f"a field of kind {kind} at byte {place}")
        if len(found) > MAX_FIELDS:
            raise NotProtobuf(f"more than {MAX_FIELDS} fields")
    if place > end:
        raise NotProtobuf(f"a field ends at byte {place}, what it is in at byte {end}")
    return found


def varints(data: bytes, begin: int, end: int) -> list[int]:
    """The numbers of a packed field.

    Raises:
        NotProtobuf: they are none.
    """
    found = []
    while begin < end:
        value, begin = _varint(data, begin, end)
        found.append(value)
    return found


def fixed(data: bytes, begin: int, end: int, form: str) -> list[float]:
    """The values of fixed width of a field, packed or not; ``form`` as in `struct`.

    Raises:
        NotProtobuf: they are none.
    """
    try:
        return [value for (value,) in struct.iter_unpack(form, data[begin:end])]
    except struct.error as error:
        raise NotProtobuf(str(error)) from error


def count_varints(data: bytes, begin: int, end: int) -> int:
    """How many numbers a packed field has, without a look at them."""
    return len(data[begin:end].translate(None, _CONTINUED))


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def bytes_field(number: int, content: bytes) -> bytes:
    """A field of bytes, of a text or of a message, written."""
    return _written(tag(number, LENGTH)) + _written(len(content)) + content


def varint_field(number: int, value: int) -> bytes:
    """A field of a number that is not negative, written."""
    return _written(tag(number, VARINT)) + _written(value)


def copied(data: bytes, field: Field) -> bytes:
    """A field of a message as it is there."""
    key, begin, end = field
    if key & 7 == VARINT:
        return _written(key) + _written(begin)
    length = _written(end - begin) if key & 7 == LENGTH else b""
    return _written(key) + length + data[begin:end]


def _written(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _varint(data: bytes, begin: int, end: int) -> tuple[int, int]:
    """A varint's value, and where it ends."""
    value = shift = 0
    for place in range(begin, min(end, begin + _LONGEST_VARINT)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, place + 1
        shift += 7
    raise NotProtobuf(f"a number that does not end at byte {begin}")
