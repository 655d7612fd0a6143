"""The header of a GGUF file, read quickly: is this a whole file, of which architecture, and what is in it.

Layout: magic, version u32, tensor count u64, entry count u64; entries of (key, type, value); tensors of (name,
dimension count u32, dimensions u64 each, type u32, offset u64); then, aligned, the tensors' data. Little-endian.
A model in parts has all entries in the first; the others say which part they are.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.errors import BrokenModel, UnsupportedModel

MAGIC = b"GGUF"
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LIMIT = 1 << 24  # entries, tensors, array items: more is damage, not a model
_LONGEST_KEPT = 1000
_MOST_DIMENSIONS = 8
_MOST_PARTS = 1000
_MOST_ALIGNMENT = 1 << 20
_PART_KEYS = ("split.no", "split.count", "split.tensors.count")
_END_KEYS = {f"tokenizer.ggml.{end}_token_id" for end in ("eos", "eot", "eom")}
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Values and bytes of a block, by type of tensor."""
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class GgufHeader:
    """The contents of a GGUF header.

    Attributes:
        entries: those that are one number or a short text, by key.
        tensors: their names.
        values: how many all of them have.
        end: where the last tensor ends, from the beginning of the file.
    """

    version: int
    entries: dict[str, int | float | str]
    tensors: tuple[str, ...]
    values: int
    end: int

    @property
    def architecture(self) -> str:
        return str(self.entries.get("general.architecture", ""))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a text, a turn or a message."""
        return tuple(int(value) for key, value in self.entries.items() if key in _END_KEYS)


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of ``path``.

    Raises:
        BrokenModel: it is no GGUF file, damaged, or shorter than its tensors.
        UnsupportedModel: it is for big-endian machines, or has tensors of an unknown type.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BrokenModel(f"{path} is not a GGUF file (it does not start with 'GGUF')")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[4:6] == b"\0\0" and len(data) >= 8:
                raise UnsupportedModel(f"{path} is a big-endian GGUF file; get the little-endian one")
            try:
                header = _Reader(data, str(path)).header()
            except (struct.error, IndexError, KeyError, ValueError, OverflowError, RecursionError) as error:
                raise BrokenModel(f"{path} has a damaged or incomplete GGUF header; download it again") from error
    if header.end > size:
        raise BrokenModel(f"{path} ends before its last tensor ({size} of {header.end} bytes); download it again")
    return header


def all_parts(path: Path) -> tuple[Path, ...]:
    """The files of a model that ``path`` is a part of, in order: the file itself if it is the only one.

    Raises:
        BrokenModel: a part is missing, damaged, or has other tensors than it should; or the file is a part under
            another name.
        UnsupportedModel: see `read_header`.
    """
    match = _PART.match(path.name)
    header = read_header(path)
    told = int(header.entries.get("split.count", 1))
    if match is None:
        if told > 1:
            number = int(header.entries.get("split.no", 0)) + 1
            raise BrokenModel(
                f"{path} is part {number} of {told}: name all parts as they were, NAME-{number:05d}-of-{told:05d}.gguf"
            )
        return (path,)
    count = int(match[3])
    if count > _MOST_PARTS:
        raise BrokenModel(f"{path} is one of {count} parts by its name, and no model has so many")
    parts = tuple(path.with_name(f"{match[1]}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BrokenModel(f"{path} is one of {count} parts and {missing[0]}{more} is missing: download all of them")
    headers = [read_header(part) for part in parts]
    for number, (part, found) in enumerate(zip(parts, headers, strict=True)):
        if (found.entries.get("split.no", 0), found.entries.get("split.count", 1)) != (number, count):
            raise BrokenModel(f"{part} is not the part that its name says; download it again")
    tensors = sum(len(found.tensors) for found in headers)
    if headers[0].entries.get("split.tensors.count", tensors) != tensors:
        raise BrokenModel(f"the parts of {parts[0]} have {tensors} tensors together, not as many as they should")
    return parts


def whole_name(path: Path) -> str:
    """The file's name without its ending and without which part it is."""
    match = _PART.match(path.name)
    return match[1] if match else path.stem


class _Reader:
    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data = data
        self.name = name
        self.at = 4

    def number(self, form: str) -> int:
        return int(self.any_number(form))

    def any_number(self, form: str) -> int | float:
        value: int | float = struct.unpack_from(f"<{form}", self.data, self.at)[0]
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

    def value(self, kind: int) -> int | float | str | None:
        """An entry's value; None for lists and long texts, which nobody wants."""
        if kind == _STRING:
            text = self.string()
            return text if len(text) <= _LONGEST_KEPT else None
        if kind != _ARRAY:
            return self.any_number(_NUMBERS[kind])
        item, count = self.number("I"), self.count()
        if item in _NUMBERS:
            self.skip(struct.calcsize(f"<{_NUMBERS[item]}") * count)
            return None
        for _ in range(count):
            self.skip_text_or_list(item)
        return None

    def skip_text_or_list(self, kind: int) -> None:
        if kind == _STRING:
            self.skip(self.count())
        else:
            self.value(kind)

    def header(self) -> GgufHeader:
        version, tensors, entries = self.number("I"), self.count(), self.count()
        if version not in (2, 3) or not tensors:
            raise ValueError(f"version {version} with {tensors} tensors")
        found: dict[str, int | float | str] = {}
        for _ in range(entries):
            key, kind = self.string(), self.number("I")
            value = self.value(kind)
            if value is not None:
                found[key] = value
        names, values, last = [], 0, 0
        for _ in range(tensors):
            names.append(self.string())
            dimensions = self.number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            shape = [self.number("Q") for _ in range(dimensions)]
            kind = self.number("I")
            if kind not in BLOCKS:
                raise UnsupportedModel(f"{self.name} has tensors of a type that is not known ({kind}); get another one")
            per_block, block_bytes = BLOCKS[kind]
            values += math.prod(shape)
            last = max(last, self.number("Q") + -(-math.prod(shape) // per_block) * block_bytes)
        alignment = int(found.get("general.alignment", 32))
        if not 0 < alignment <= _MOST_ALIGNMENT:
            raise ValueError(f"an alignment of {alignment}")
        if not all(isinstance(found.get(key, 0), int) for key in (*_PART_KEYS, *_END_KEYS)):
            raise ValueError("texts in place of numbers")
        return GgufHeader(version, found, tuple(names), values, -(-self.at // alignment) * alignment + last)
