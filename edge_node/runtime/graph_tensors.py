"""Tensors in a graph, looked at before ONNX Runtime does (pure): are they as large as they say, and where are they?"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from edge_node.errors import GraphRefused
from edge_node.runtime import onnx_messages as onnx
from edge_node.runtime.onnx_messages import Found, Place
from edge_node.runtime.protobuf import FIXED32, FIXED64, LENGTH, count_varints, fixed, signed, tag, varints
from schemas.names import SHA256_PATTERN

BlobSize = Callable[[str], int | None]
"""The size of the blob of this name; None where the node has none."""
MAX_DIMS = 16
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8, 19: 8,
    20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Of a value, by element type; texts and complex numbers are none of ours."""
_FORMATS = {1: "<f", 6: "<i", 7: "<q", 10: "<e", 11: "<d"}
"""Of values that may say how large something is, as `struct` has them."""
_FIXED = {"<f": 4, "<d": 10}
"""Fields of values of fixed width."""
_TYPED = {4: {1}, 5: {2, 3, 4, 5, 6, 9, 10, 16}, 7: {7}, 10: {11}, 11: {12, 13}}
"""Element types of the fields with values one by one."""
_TYPED_TAGS = {tag(number, either): number for number, kind in onnx.TYPED_DATA.items() for either in (kind, LENGTH)}
_EXTERNAL = 1
_BLOB_NAME = re.compile(SHA256_PATTERN.encode())
_DIGITS = re.compile(b"[0-9]{1,18}")
_PLACE_KEYS = (b"location", b"offset", b"length")


class Tensor(NamedTuple):
    """A tensor that is as large as it says."""

    name: bytes
    size_bytes: int
    elem_type: int
    is_external: bool
    found: Found


def check_tensor(data: bytes, place: Place, blob_size: BlobSize) -> Tensor:
    """Look at a tensor.

    Raises:
        GraphRefused: its values are not where they may be, or not as many as its shape says.
        NotProtobuf: it is no message.
    """
    found = onnx.read(onnx.TENSOR_KIND, data, *place)
    name = onnx.text(data, found, onnx.TENSOR_NAME)
    elem_type = onnx.number(found, onnx.DATA_TYPE)
    bits = _BITS.get(elem_type)
    if bits is None:
        raise GraphRefused(f"tensor {onnx.readable(name)!r} has elements of type {elem_type}")
    values = _count(data, found, name)
    size_bytes = (values * bits + 7) // 8
    is_external = onnx.number(found, onnx.DATA_LOCATION) == _EXTERNAL
    typed = [
        number for number, kind in onnx.TYPED_DATA.items() if {tag(number, kind), tag(number, LENGTH)} & set(found)
    ]
    sources = len(set(typed)) + (onnx.RAW_DATA in found) + is_external
    if sources > 1 or (onnx.EXTERNAL_DATA in found) != is_external:
        raise GraphRefused(f"tensor {onnx.readable(name)!r} has values in more than one place")
    if is_external:
        _check_external(data, found, name, size_bytes, blob_size)
    elif typed:
        here = _count_typed(data, found, typed[0])
        if elem_type not in _TYPED[typed[0]] or here != values:
            raise GraphRefused(f"tensor {onnx.readable(name)!r} has {here} values, its shape is for {values}")
    elif sum(stop - start for start, stop in found.get(onnx.RAW_DATA, ())) != size_bytes:
        here = len(onnx.text(data, found, onnx.RAW_DATA))
        raise GraphRefused(f"tensor {onnx.readable(name)!r} has {here} bytes, its shape is for {size_bytes}")
    return Tensor(name, size_bytes, elem_type, is_external, found)


def numbers(data: bytes, tensor: Tensor, most: int) -> list[float] | None:
    """The values of a tensor in the graph; None of one that is elsewhere, or has others or more than ``most``."""
    form = _FORMATS.get(tensor.elem_type)
    if form is None or tensor.is_external or tensor.size_bytes > most * struct.calcsize(form):
        return None
    raw = [tensor.found[onnx.RAW_DATA][0]] if onnx.RAW_DATA in tensor.found else []
    if raw or form in _FIXED:
        kept = raw or places(tensor.found, _FIXED[form])
        return [value for place in kept for value in fixed(data, *place, form)]
    return list(repeated(data, tensor.found, 7 if form == "<q" else 5))


def places(found: Found, number: int) -> list[Place]:
    """Where the values of fixed width of a field are, packed or not."""
    every = (found.get(tag(number, kind), ()) for kind in (LENGTH, FIXED32, FIXED64))
    return [place for some in every for place in some]


def repeated(data: bytes, found: Found, number: int) -> list[int]:
    """The numbers of a field, packed or not."""
    key = number << 3
    packed = [one for place in found.get(key | LENGTH, ()) for one in varints(data, *place)]
    return [signed(one) for one in (*packed, *[value for value, _ in found.get(key, ())])]


def _count(data: bytes, found: Found, name: bytes) -> int:
    """How many values a tensor has by its shape."""
    packed = found.get(onnx.DIMS_PACKED, ())
    if len(found.get(onnx.DIM, ())) + sum(count_varints(data, *place) for place in packed) > MAX_DIMS:
        raise GraphRefused(f"tensor {onnx.readable(name)!r} has more than {MAX_DIMS} dimensions")
    dims = repeated(data, found, 1)
    if any(dim < 0 for dim in dims):
        raise GraphRefused(f"tensor {onnx.readable(name)!r} has a dimension below 0")
    return math.prod(dims)


def _count_typed(data: bytes, found: Found, number: int) -> int:
    kind = onnx.TYPED_DATA[number]
    one_by_one = len(found.get(tag(number, kind), ()))
    packed = found.get(tag(number, LENGTH), ())
    if kind in (FIXED32, FIXED64):
        return one_by_one + sum((stop - start) // (4 if kind == FIXED32 else 8) for start, stop in packed)
    return one_by_one + sum(count_varints(data, *place) for place in packed)


def external_place(data: bytes, found: Found, name: bytes, size_bytes: int) -> tuple[str, int]:
    """The blob that an external tensor's values are in, and where they begin.

    Raises:
        GraphRefused: they are in no blob, or not as many as its shape says.
    """
    entries: dict[bytes, bytes] = {}
    for place in found[onnx.EXTERNAL_DATA]:
        entry = onnx.read(onnx.ENTRY_KIND, data, *place)
        key = onnx.text(data, entry, onnx.KEY)
        if key in entries or key not in _PLACE_KEYS:
            raise GraphRefused(
                f"the place of tensor {onnx.readable(name)!r} has {onnx.readable(key)!r} twice, or should not have it"
            )
        entries[key] = onnx.text(data, entry, onnx.VALUE)
    location = entries.get(b"location", b"")
    if not _BLOB_NAME.fullmatch(location):
        raise GraphRefused(
            f"the values of tensor {onnx.readable(name)!r} are in {onnx.readable(location)!r}, which is no blob"
        )
    offset, length = entries.get(b"offset", b"0"), entries.get(b"length", b"%d" % size_bytes)
    if not (_DIGITS.fullmatch(offset) and _DIGITS.fullmatch(length)) or int(length) != size_bytes:
        raise GraphRefused(
            f"tensor {onnx.readable(name)!r} has {onnx.readable(length)} bytes from {onnx.readable(offset)} on, its"
            f" shape is for {size_bytes}"
        )
    return location.decode(), int(offset)


def _check_external(data: bytes, found: Found, name: bytes, size_bytes: int, blob_size: BlobSize) -> None:
    location, offset = external_place(data, found, name, size_bytes)
    there = blob_size(location)
    if there is None:
        raise GraphRefused(f"the values of tensor {onnx.readable(name)!r} are in a blob that is not here")
    if offset + size_bytes > there:
        raise GraphRefused(
            f"tensor {onnx.readable(name)!r} ends at byte {offset + size_bytes} of a blob of {there} bytes"
        )
