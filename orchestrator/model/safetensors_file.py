"""Safetensors files: their header, and one that is written with no more in memory than is being written.

Layout: the length of the header as u64, the header as JSON with each tensor's type, shape and place, then their bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from schemas.closing import Closing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VALUE_BYTES = 4
_ALIGN = 8
_LENGTH = struct.Struct("<Q")
_MOST_DIMENSIONS = 16
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
"""Of a value, by type."""
_METADATA = "__metadata__"


def read_header(file: BinaryIO, most_bytes: int) -> tuple[dict[str, dict[str, Any]], int]:
    """Each tensor's entry by name, and where in the file their bytes begin.

    Raises:
        ValueError: it is no header, or longer than ``most_bytes``.
    """
    raw = file.read(_LENGTH.size)
    if len(raw) < _LENGTH.size:
        raise ValueError("no header")
    (length,) = _LENGTH.unpack(raw)
    if length > most_bytes:
        raise ValueError(f"a header of {length} bytes")
    entries: dict[str, dict[str, Any]] = json.loads(file.read(length))
    if not isinstance(entries, dict):
        raise ValueError("a header that is no object")
    entries.pop(_METADATA, None)
    return entries, _LENGTH.size + length


def check_entries(entries: Mapping[str, Mapping[str, Any]], data_bytes: int) -> None:
    """Check that tensors lie one behind the other, each as long as its shape, in so many bytes.

    Raises:
        ValueError, KeyError, TypeError: they do not.
    """
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        shape = entry["shape"]
        if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
            raise ValueError(f"{name} has a shape that is none")
        if begin != position or end - begin != -(-math.prod(shape) * _BITS[entry["dtype"]] // 8):
            raise ValueError(f"{name} is not where it should be, or not as long as its shape")
        position = end
    if position < data_bytes:
        raise ValueError("more behind the last tensor")


def encode_header(entries: Mapping[str, Mapping[str, Any]]) -> bytes:
    """What a file with these entries begins with."""
    raw = json.dumps({_METADATA: {"format": "pt"}, **entries}).encode()
    raw += b" " * (-len(raw) % _ALIGN)
    return _LENGTH.pack(len(raw)) + raw


class SafetensorsFile(Closing):
    """Float32 tensors of the given shapes, by name; each is to be written once, in any order."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        entries: dict[str, dict[str, Any]] = {}
        self._places: dict[str, tuple[int, int]] = {}
        position = 0
        for name, shape in shapes.items():
            end = position + _VALUE_BYTES * math.prod(shape)
            entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
            self._places[name] = (position, end)
            position = end
        header = encode_header(entries)
        self._begin = len(header)
        self._file = path.open("wb")
        self._file.write(header)

    def write(self, name: str, pieces: Iterable[NDArray[np.float32]]) -> None:
        """Write a tensor, given in pieces that follow each other."""
        position, end = self._places[name]
        self._file.seek(self._begin + position)
        for piece in pieces:
            position += self._file.write(piece.astype("<f4", copy=False).tobytes())
        assert position == end, f"{name} has {end - position} bytes less than its shape"

    def close(self) -> None:
        """End the file."""
        self._file.close()
