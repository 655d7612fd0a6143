"""A known answer: what a segment makes of a fixed input, as a blob that nodes fetch beside the segment's graph.

The orchestrator computes it, a node has to compute it too. Little-endian, without padding::

    "LBKA", version u8, positions u16, width_in u32, rows u16, values u32, width_out u32, tolerance f32
    input     positions int32 ids where width_in is 0, else positions x width_in float32
    norms     rows float32: what a difference is measured by
    expected  rows x values float32

All positions but the last are computed as a chunk of a prompt, the last as a step of an answer. A segment that gives
hidden states has a row for each position; one that gives logits has one for the chunk and one for the step. Of long
rows only some ``values`` are kept, spread evenly; ``places`` says which.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from schemas.errors import MessageError

POSITIONS = 5
MAX_VALUES = 4096
"""Kept of a row of logits, or of a very wide hidden state."""
_HEADER = struct.Struct("<4sBHIHIIf")
_MAGIC, _VERSION = b"LBKA", 1


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownAnswer:
    """Input, expected output, and how far off an output may be.

    For each row: the difference's norm, over ``norm``, is ``tolerance`` at most.
    """

    positions: int
    width_in: int
    """Of the hidden state that is the input; 0 where token ids are."""
    rows: int
    values: int
    """Kept of each row."""
    width_out: int
    """Of a row: the hidden state's width, or the vocabulary."""
    tolerance: float
    given: bytes
    norms: bytes
    expected: bytes


def places(width: int, values: int) -> list[int]:
    """Which of ``width`` places are kept if ``values`` are."""
    return [index * width // values for index in range(values)]


def encode_known_answer(known: KnownAnswer) -> bytes:
    """The blob."""
    header = _HEADER.pack(
        _MAGIC, _VERSION, known.positions, known.width_in, known.rows, known.values, known.width_out, known.tolerance
    )
    return b"".join((header, known.given, known.norms, known.expected))


def decode_known_answer(data: bytes) -> KnownAnswer:
    """Read a blob.

    Raises:
        MessageError: it is none, or of another version or length.
    """
    if len(data) < _HEADER.size:
        raise MessageError(f"a known answer of {len(data)} bytes: too short")
    magic, version, positions, width_in, rows, values, width_out, tolerance = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise MessageError(f"no known answer of version {_VERSION}: run the same linguabus on all devices")
    given_end = _HEADER.size + 4 * positions * max(width_in, 1)
    norms_end = given_end + 4 * rows
    if len(data) != norms_end + 4 * rows * values or not 0 < values <= width_out or positions < 2:
        raise MessageError(f"a known answer of {len(data)} bytes: its figures contradict each other")
    if not math.isfinite(tolerance):
        raise MessageError("a known answer without a tolerance")
    return KnownAnswer(
        positions=positions,
        width_in=width_in,
        rows=rows,
        values=values,
        width_out=width_out,
        tolerance=tolerance,
        given=data[_HEADER.size : given_end],
        norms=data[given_end:norms_end],
        expected=data[norms_end:],
    )
