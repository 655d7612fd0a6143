"""The header of a GGUF file, read quickly: is this a whole file, and of which architecture.

Layout: magic, version u32, tensor count u64, entry count u64; entries of (key, type, value); tensors of (name,
dimension count u32, dimensions u64 each, type u32, offset u64); then, aligned, the tensors' data. Little-endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.errors import BrokenModel

MAGIC = b"GGUF"
_FIXED_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
_STRING, _ARRAY = 8, 9
_LIMIT = 1 << 24  # entries, tensors, array items: more is damage, not a model
_END_KEYS = {f"tokenizer.ggml.{end}_token_id" for end in ("eos", "eot", "eom")}


@dataclass(frozen=True)
class GgufHeader:
    """The contents of a GGUF header.

    Attributes:
        end: where the last tensor starts, from the beginning of the file.
        end_ids: tokens that end a text, a turn or a message.
    """

    version: int
    architecture: str
    tensors: int
    end: int
    end_ids: tuple[int, ...]


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of ``path``.

    Raises:
        BrokenModel: it is no GGUF file, damaged, or shorter than its tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BrokenModel(f"{path} is not a GGUF file (it does not start with 'GGUF')")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _Reader(data).header()
            except (struct.error, IndexError, KeyError, ValueError, RecursionError) as error:
                raise BrokenModel(f"{path} has a damaged or incomplete GGUF header; download it again") from error
    if header.end >= size:
        raise BrokenModel(f"{path} ends before its last tensor ({size} of over {header.end} bytes); download it again")
    return header


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 4

    def number(self, form: str) -> int:
        value: int = struct.unpack_from(f"<{form}", self.data, self.at)[0]
        self.at += struct.calcsize(f"<{form}")
        return value

    def count(self) -> int:
        value = self.number("Q")
        if value > _LIMIT:
            raise ValueError(f"a count of {value}")
        return value

    def skip(self, length: int) -> None:
        self.at += length

    def string(self) -> str:
        length = self.count()
        raw = self.data[self.at : self.at + length]
        if len(raw) < length:
            raise ValueError("a string beyond the end")
        self.at += length
        return raw.decode("utf-8", "replace")

    def skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self.skip(self.count())
        elif kind == _ARRAY:
            item, count = self.number("I"), self.count()
            if item in _FIXED_BYTES:
                self.skip(_FIXED_BYTES[item] * count)
                return
            for _ in range(count):
                self.skip_value(item)
        else:
            self.skip(_FIXED_BYTES[kind])

    def header(self) -> GgufHeader:
        version, tensors, entries = self.number("I"), self.count(), self.count()
        if version not in (2, 3) or not tensors:
            raise ValueError(f"version {version} with {tensors} tensors")
        architecture, alignment = "", 32
        end_ids: list[int] = []
        for _ in range(entries):
            key, kind = self.string(), self.number("I")
            if key == "general.architecture" and kind == _STRING:
                architecture = self.string()
            elif key == "general.alignment" and kind == 4:
                alignment = self.number("I")
            elif key in _END_KEYS and kind in _INTEGERS:
                end_ids.append(self.number(_INTEGERS[kind]))
            else:
                self.skip_value(kind)
        last = 0
        for _ in range(tensors):
            self.string()
            self.skip(8 * self.number("I") + 4)  # dimensions and type
            last = max(last, self.number("Q"))
        end = -(-self.at // alignment) * alignment + last
        return GgufHeader(version, architecture, tensors, end, tuple(end_ids))
