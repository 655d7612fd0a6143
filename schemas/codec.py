"""The binary frame: activations, tokens, KV rows and replay requests.

Little endian, a header of 44 bytes, then the payload::

    magic "LB" | version u8 | kind u8 | dtype u8 | flags u8 | count u16 | request u64
    | epoch generation u32 | epoch counter u32 | attempt u32 | position u32
    | width u32 | payload bytes u32 | CRC-32 of the other header bytes and the payload

A frame is about the ``count`` positions ``[position, position + count)`` of one request. ``width`` is the number
of values per position. Payload layouts, with n = count x width:

* ACTIVATION fp32: n floats. fp16: n halves, then one int8 exponent e per position (value = half x 2**e).
  int8: n int8, then ceil(width / 64) fp16 scales per position, one for 64 values; the products are to be transformed by
  Hadamard's matrix in runs (`schemas.hadamard`). With VERIFY, behind that a mark of four bytes per position: of the
  token there, as those can tell who know the prompt.
* TOKENS: count int32 ids, then width int32 ids that are a guess of what follows (speculation). If there is one, behind
  that an int32: the most positions of a run that verifies it, the token before it or a guess and those behind it.
* GUESS: count int32 ids that a draft model guesses to follow the tokens before ``position``, then the same int32.
* KV_ROWS: layer u16, part u16 (0 key or a convolution's input, 1 value), heads u16, head_dim u16, then n values, fp32,
  fp16, or int8 whose scales both sides have; ``attempt`` is the number of the message in its copy, from 1.
* LOGPROBS fp32, of tokens: for each the logarithm of its probability, then ``width`` int32 ids of the likeliest tokens
  and ``width`` floats, the logarithms of theirs.
* REPLAY: nothing; ``position`` is where the sender's valid KV cache ends.
* KV_ACK: nothing; ``attempt`` is the number of the newest message that was taken in by the stage ``position`` of the
  epoch to be.
"""

from __future__ import annotations

import enum
import functools
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from schemas.errors import (
    FrameChecksumMismatch,
    FrameDtypeMismatch,
    FrameKindUnknown,
    FrameOversized,
    FrameShapeMismatch,
    FrameTruncated,
    FrameVersionMismatch,
)
from schemas.limits import MAX_ALTERNATIVES, MAX_CONTEXT_TOKENS, MAX_PAYLOAD_BYTES
from schemas.messages import Epoch, KvLayer, WireDtype

MAGIC: Final = b"LB"
FRAME_VERSION: Final = 1
_HEADER: Final = struct.Struct("<2sBBBBHQIIIIIII")
HEADER_BYTES: Final = _HEADER.size
_HEAD: Final = struct.Struct("<2sBBBBHQIIIIII")
"""The header without its CRC."""
CRC: Final = struct.Struct("<I")
CRC_OFFSET: Final = HEADER_BYTES - CRC.size
REQUEST: Final = struct.Struct("<Q")
REQUEST_OFFSET: Final = 8
POSITION: Final = struct.Struct("<I")
POSITION_OFFSET: Final = 28
_ATTEMPT: Final = struct.Struct("<I")
_ATTEMPT_OFFSET: Final = 24
_PAYLOAD_BYTES: Final = struct.Struct("<I")
_PAYLOAD_BYTES_OFFSET: Final = 36
_KV_HEADER: Final = struct.Struct("<HHHH")
KV_HEADER_BYTES: Final = _KV_HEADER.size
INT8_BLOCK: Final = 64
"""Values that share one scale in an int8 activation."""

MARK_BYTES: Final = 4
"""Of what a window of guesses says about each of its tokens."""
MAX_FRAMES: Final = 1024
"""Frames in one message."""
MAX_POSITION: Final = MAX_CONTEXT_TOKENS
MAX_WIDTH: Final = 1 << 20


class Kind(enum.IntEnum):
    """What a frame carries."""

    ACTIVATION = 1
    TOKENS = 2
    KV_ROWS = 3
    REPLAY = 4
    KV_ACK = 5
    LOGPROBS = 6
    GUESS = 7


class Dtype(enum.IntEnum):
    """Element type of the payload."""

    NONE = 0
    FP32 = 1
    FP16 = 2
    INT8 = 3
    INT32 = 4


class Flag(enum.IntFlag):
    """Bits of the flags byte. For activations: choose a token after the last position (SAMPLE), or after each as long
    as the guessed ones are right, the first one too (VERIFY). For tokens: why the answer ended."""

    NONE = 0
    SAMPLE = 1
    STOP = 2
    LENGTH = 4
    VERIFY = 8


SAMPLE: Final = int(Flag.SAMPLE)
VERIFY: Final = int(Flag.VERIFY)
"""As plain numbers for the hot path: the operators of an IntFlag are Python functions."""

_ALLOWED_DTYPES: Final = {
    Kind.ACTIVATION: (Dtype.FP32, Dtype.FP16, Dtype.INT8),
    Kind.TOKENS: (Dtype.INT32,),
    Kind.KV_ROWS: (Dtype.FP32, Dtype.FP16, Dtype.INT8),
    Kind.REPLAY: (Dtype.NONE,),
    Kind.KV_ACK: (Dtype.NONE,),
    Kind.LOGPROBS: (Dtype.FP32,),
    Kind.GUESS: (Dtype.INT32,),
}
_ALLOWED_FLAGS: Final = {
    Kind.ACTIVATION: int(Flag.SAMPLE | Flag.VERIFY),
    Kind.TOKENS: int(Flag.STOP | Flag.LENGTH),
    Kind.KV_ROWS: 0,
    Kind.REPLAY: 0,
    Kind.KV_ACK: 0,
    Kind.LOGPROBS: 0,
    Kind.GUESS: 0,
}
_FORBIDDEN_FLAGS: Final = {kind: ~flags for kind, flags in _ALLOWED_FLAGS.items()}
_NEEDS_COUNT: Final = {kind: kind not in (Kind.REPLAY, Kind.KV_ACK) for kind in Kind}
_WIDTHS: Final = {kind: (kind in (Kind.ACTIVATION, Kind.KV_ROWS),) for kind in Kind} | {
    Kind.TOKENS: (False, True),
    Kind.LOGPROBS: (False, True),
}
"""Whether a frame of this kind has a width; tokens may have a guess or not, and alternatives."""
_KINDS: Final = {int(kind): kind for kind in Kind}
_DTYPES: Final = {int(dtype): dtype for dtype in Dtype}
VALUE_BYTES: Final = {Dtype.FP32: 4, Dtype.FP16: 2, Dtype.INT8: 1}
"""Of a value in KV rows."""


@dataclass(slots=True)
class Frame:
    """One frame. ``request`` is the request id as a number; ``payload`` is any bytes-like object.

    Nobody changes a frame; it is not ``frozen`` because that triples the time of making one.
    """

    kind: Kind
    request: int
    epoch: Epoch
    attempt: int
    position: int
    count: int = 0
    width: int = 0
    dtype: Dtype = Dtype.NONE
    flags: int = 0
    payload: bytes | bytearray | memoryview = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class KvRowsHeader:
    """Which rows of which cache a KV_ROWS frame carries; ``part`` is 0 for keys, 1 for values.

    Of a layer that folds all positions into states it is the number of a piece of these, as they are at ``position``.
    """

    layer: int
    part: int
    heads: int
    head_dim: int


def request_number(request: str) -> int:
    """The request id's form in frames."""
    return int(request, 16)


def request_id(number: int) -> str:
    """The request id's form in JSON and logs."""
    return f"{number:016x}"


def activation_payload_bytes(dtype: Dtype, count: int, width: int) -> int:
    """Length of an activation's payload."""
    if dtype is Dtype.FP32:
        return 4 * count * width
    if dtype is Dtype.FP16:
        return 2 * count * width + count
    return count * width + 2 * count * -(-width // INT8_BLOCK)


def hidden_states(frame: Frame) -> bytes | bytearray | memoryview:
    """The hidden states of an activation, without the marks that stand behind guesses."""
    return frame.payload[: len(frame.payload) - MARK_BYTES * frame.count] if frame.flags & VERIFY else frame.payload


def marks(frame: Frame) -> bytes:
    """The marks of an activation's tokens; empty where nothing is to be verified."""
    return bytes(frame.payload[len(frame.payload) - MARK_BYTES * frame.count :]) if frame.flags & VERIFY else b""


def logprobs_bytes(alternatives: int) -> int:
    """Length of what is said of one token in a LOGPROBS frame."""
    return 4 + 8 * alternatives


def frames_per_message(payload_bytes: int, max_message_bytes: int = MAX_PAYLOAD_BYTES) -> int:
    """How many frames with payloads of this length fit into one message; at least one."""
    return max(1, max_message_bytes // (HEADER_BYTES + payload_bytes))


def activation_positions(dtype: Dtype, width: int, max_message_bytes: int) -> int:
    """How many positions of one request an activation may have that is to fit into a message."""
    return max(0, max_message_bytes - HEADER_BYTES) // max(1, activation_payload_bytes(dtype, 1, width))


def _expected_payload_bytes(kind: Kind, dtype: Dtype, count: int, width: int) -> int:
    if kind is Kind.TOKENS:
        return 4 * (count + width + (width > 0))
    if kind is Kind.GUESS:
        return 4 * (count + 1)
    if kind is Kind.KV_ROWS:
        return KV_HEADER_BYTES + count * width * VALUE_BYTES[dtype]
    if kind is Kind.LOGPROBS:
        return count * logprobs_bytes(width)
    return 0


def _check(kind: Kind, dtype: Dtype, flags: int, count: int, width: int, position: int, payload_bytes: int) -> None:
    if dtype not in _ALLOWED_DTYPES[kind]:
        raise FrameDtypeMismatch(f"{kind.name} frames can't carry {dtype.name}")
    if flags & _FORBIDDEN_FLAGS[kind]:
        raise FrameShapeMismatch(f"flags {flags:#x} are not allowed in a {kind.name} frame")
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise FrameOversized(f"payload of {payload_bytes} bytes, allowed are {MAX_PAYLOAD_BYTES}")
    if position + count > MAX_POSITION or width > MAX_WIDTH:
        raise FrameShapeMismatch(f"positions up to {position + count} of {width} values are outside the limits")
    if (count > 0) is not _NEEDS_COUNT[kind] or (width > 0) not in _WIDTHS[kind]:
        raise FrameShapeMismatch(f"{kind.name} frame of {count} positions of {width} values")
    if kind is Kind.LOGPROBS and width > MAX_ALTERNATIVES:
        raise FrameShapeMismatch(f"{width} alternatives to a token, allowed are {MAX_ALTERNATIVES}")
    if kind is Kind.ACTIVATION:
        expected = activation_payload_bytes(dtype, count, width) + (MARK_BYTES * count if flags & VERIFY else 0)
    else:
        expected = _expected_payload_bytes(kind, dtype, count, width)
    if payload_bytes != expected:
        raise FrameShapeMismatch(f"payload of {payload_bytes} bytes, its shape needs {expected}")


def encode_frame(frame: Frame) -> bytes:
    """The frame's bytes.

    Raises:
        FrameError: the frame contradicts itself or its limits; nothing invalid can be sent.
    """
    return pack_frame(
        frame.kind, frame.dtype, frame.flags, frame.count, frame.request, frame.epoch, frame.attempt, frame.position,
        frame.width, memoryview(frame.payload).cast("B") if len(frame.payload) else b"",
    )  # fmt: skip


def pack_frame(
    kind: Kind, dtype: Dtype, flags: int, count: int, request: int, epoch: Epoch, attempt: int, position: int,
    width: int, payload: bytes | bytearray | memoryview,
) -> bytes:  # fmt: skip
    """The bytes of a frame from its members, without a ``Frame`` object: what a stage sends in every step.

    Checks and errors are those of ``encode_frame``.
    """
    _check(kind, dtype, flags, count, width, position, len(payload))
    try:
        head = _HEAD.pack(
            MAGIC, FRAME_VERSION, kind, dtype, flags, count, request, epoch.generation, epoch.counter, attempt,
            position, width, len(payload),
        )  # fmt: skip
    except struct.error as error:
        raise FrameShapeMismatch(f"header value out of range: {error}") from None
    return b"".join((head, CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def decode_frames(data: bytes | bytearray | memoryview) -> list[Frame]:
    """Parse a message of one or more frames, one after the other: what a stage computed in one run.

    Raises:
        FrameError: as for one frame, or there are more than ``MAX_FRAMES``.
    """
    view = memoryview(data)
    frames = [_decode_first(view)]
    at = HEADER_BYTES + len(frames[0].payload)
    while at < len(view):
        if len(frames) == MAX_FRAMES:
            raise FrameOversized(f"more than {MAX_FRAMES} frames in one message")
        frame = _decode_first(view[at:])
        frames.append(frame)
        at += HEADER_BYTES + len(frame.payload)
    return frames


def decode_frame(data: bytes | bytearray | memoryview) -> Frame:
    """Parse and check one frame; its payload is a view into ``data``, not a copy.

    Raises:
        FrameError: a subclass that says what does not add up.
    """
    return _decode_first(memoryview(data), alone=True)


def _decode_first(data: memoryview, *, alone: bool = False) -> Frame:
    """Decode the first frame in ``data``; with ``alone`` it has to be the only one."""
    if len(data) < HEADER_BYTES:
        raise FrameTruncated(f"{len(data)} bytes, a header has {HEADER_BYTES}")
    (magic, version, kind_code, dtype_code, flags, count, request, generation, counter, attempt, position, width,
     payload_bytes, checksum) = _HEADER.unpack_from(data)  # fmt: skip
    if magic != MAGIC or version != FRAME_VERSION:
        raise FrameVersionMismatch(f"magic {magic!r} version {version}, this version reads {MAGIC!r} {FRAME_VERSION}")
    kind = _KINDS.get(kind_code)
    if kind is None:
        raise FrameKindUnknown(f"kind {kind_code}")
    dtype = _DTYPES.get(dtype_code)
    if dtype is None:
        raise FrameDtypeMismatch(f"dtype {dtype_code}")
    payload = data[HEADER_BYTES : HEADER_BYTES + payload_bytes]
    if len(payload) < payload_bytes:
        raise FrameTruncated(f"{len(data)} bytes, the header announces {HEADER_BYTES + payload_bytes}")
    if alone and len(data) > HEADER_BYTES + payload_bytes:
        raise FrameOversized(f"{len(data)} bytes, the header announces {HEADER_BYTES + payload_bytes}")
    _check(kind, dtype, flags, count, width, position, payload_bytes)
    if zlib.crc32(payload, zlib.crc32(data[:CRC_OFFSET])) != checksum:
        raise FrameChecksumMismatch("the CRC-32 does not match")
    return Frame(
        kind, request, _epoch(generation, counter), attempt, position, count, width, dtype, flags, payload
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _epoch(generation: int, counter: int) -> Epoch:
    """The epoch of these two numbers: one object for all frames of an answer."""
    return Epoch(generation=generation, counter=counter)


def restamp(data: bytes, attempt: int) -> bytes:
    """A copy of an encoded frame with another attempt: how stage 0 repeats itself without computing again."""
    copy = bytearray(data)
    _ATTEMPT.pack_into(copy, _ATTEMPT_OFFSET, attempt)
    view = memoryview(copy)
    CRC.pack_into(copy, CRC_OFFSET, zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[:CRC_OFFSET])))
    return bytes(copy)


def pack_kv_header(header: KvRowsHeader) -> bytes:
    """The eight bytes in front of KV rows."""
    return _KV_HEADER.pack(header.layer, header.part, header.heads, header.head_dim)


def unpack_kv_header(frame: Frame) -> KvRowsHeader:
    """The KV rows' header.

    Raises:
        FrameShapeMismatch: not a KV_ROWS frame, or heads x head_dim is not the frame's width.
    """
    if frame.kind is not Kind.KV_ROWS:
        raise FrameShapeMismatch(f"a {frame.kind.name} frame has no KV rows")
    layer, part, heads, head_dim = _KV_HEADER.unpack_from(frame.payload)
    if heads * head_dim != frame.width or part > 1:
        raise FrameShapeMismatch(f"{heads} heads of {head_dim} values, part {part}, for a width of {frame.width}")
    return KvRowsHeader(layer=layer, part=part, heads=heads, head_dim=head_dim)


HALVES: Final = "fp16"
"""`KvLayer.rounding` of keys and values in fp16."""


def kept_dtype(layer: KvLayer) -> Dtype | None:
    """Type of a layer's keys and values where they are rounded; None: as its graph has them."""
    if layer.rounding is None:
        return None
    return Dtype.FP16 if layer.rounding == HALVES else Dtype.INT8


def may_keep(layer: KvLayer, dtype: Dtype | None) -> bool:
    """Is this how a layer's keys and values are to be kept? Those that are not rounded are in floats of any size."""
    rounded = kept_dtype(layer)
    return dtype is rounded if rounded else dtype is not Dtype.INT8


WIRE_DTYPES: Final[dict[WireDtype, Dtype]] = {"fp32": Dtype.FP32, "fp16": Dtype.FP16, "int8": Dtype.INT8}


def rows_per_message(dtype: Dtype, width: int, max_message_bytes: int = MAX_PAYLOAD_BYTES) -> int:
    """Frames of one position of ``width`` values that fit into one message; at least one."""
    return frames_per_message(activation_payload_bytes(dtype, 1, width), max_message_bytes)
