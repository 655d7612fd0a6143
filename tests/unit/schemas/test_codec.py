"""Binary frames: every kind and dtype survives the wire; anything damaged is refused with a named error."""

from __future__ import annotations

import array
import dataclasses
import struct
import zlib
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas import codec, errors, limits
from schemas.codec import Dtype, Flag, Frame, Kind, KvRowsHeader, decode_frame, encode_frame
from schemas.messages import Epoch
from tests.support.strategies import examples, frames, instances

EPOCH = Epoch(generation=7, counter=2)
REQUEST = 0x5F0C3A9E81D7B264


def activation(**changes: Any) -> Frame:
    """A decode step of width 4, with ``changes``."""
    step = Frame(
        kind=Kind.ACTIVATION,
        request=REQUEST,
        epoch=EPOCH,
        attempt=1,
        position=38,
        count=1,
        width=4,
        dtype=Dtype.FP32,
        flags=int(Flag.SAMPLE),
        payload=struct.pack("<4f", 0.5, -1.25, 3.0, 1e-6),
    )
    return dataclasses.replace(step, **changes)


def sealed(data: bytearray) -> bytearray:
    """``data`` with the checksum its content asks for, so that nothing but the change itself is wrong."""
    data[40:44] = struct.pack("<I", zlib.crc32(data[44:], zlib.crc32(data[:40])))
    return data


def decode_or_refusal(data: bytes | bytearray) -> Frame | errors.FrameError:
    """The frame, or the named error that refused it; every other exception fails the test."""
    try:
        return decode_frame(data)
    except errors.FrameError as error:
        refusal = error
    assert type(refusal) is not errors.FrameError, "refused without saying what is wrong"
    assert str(refusal).isprintable()
    return refusal


def test_layout_on_the_wire() -> None:
    """Byte for byte, so that the layout can't change with the code that reads it."""
    assert codec.HEADER_BYTES == 44
    data = bytes(encode_frame(activation(attempt=0x01020304)))
    assert data[:40] == (
        b"LB\x01\x01\x01\x01\x01\x00"  # magic, version, kind, dtype, flags, count
        b"\x64\xb2\xd7\x81\x9e\x3a\x0c\x5f"  # request
        b"\x07\x00\x00\x00\x02\x00\x00\x00"  # epoch
        b"\x04\x03\x02\x01\x26\x00\x00\x00"  # attempt, position
        b"\x04\x00\x00\x00\x10\x00\x00\x00"  # width, payload bytes
    )
    assert data[40:44] == struct.pack("<I", zlib.crc32(data[:40] + data[44:]))
    assert data[44:] == struct.pack("<4f", 0.5, -1.25, 3.0, 1e-6)


@given(frame=frames())
@examples(200)
def test_round_trip(frame: Frame) -> None:
    data = bytearray(encode_frame(frame))
    decoded = decode_frame(data)
    assert decoded == frame
    assert (type(decoded.kind), type(decoded.dtype)) == (Kind, Dtype)
    assert encode_frame(decoded) == data


def test_payload_is_a_view_and_any_buffer_is_taken() -> None:
    floats = array.array("f", [0.5, -1.25, 3.0, 1e-6])
    data = bytearray(encode_frame(activation(payload=memoryview(floats))))
    assert data == encode_frame(activation()) == encode_frame(activation(payload=bytearray(floats.tobytes())))
    for received in (bytes(data), data, memoryview(data)):
        assert decode_frame(received) == activation()
    payload = decode_frame(data).payload
    data[44:48] = struct.pack("<f", 9.0)
    assert memoryview(payload)[:4] == struct.pack("<f", 9.0)


@pytest.mark.parametrize(
    ("dtype", "count", "width", "expected"),
    [
        (Dtype.FP32, 3, 5, 60),
        (Dtype.FP16, 3, 5, 33),
        (Dtype.INT8, 3, 64, 3 * (64 + 2)),
        (Dtype.INT8, 3, 65, 3 * (65 + 4)),
    ],
)
def test_activation_payload_bytes(dtype: Dtype, count: int, width: int, expected: int) -> None:
    assert codec.activation_payload_bytes(dtype, count, width) == expected


@given(frame=frames())
@examples(15)
def test_truncated_at_every_length(frame: Frame) -> None:
    data = bytearray(encode_frame(frame))
    for length in range(len(data)) if len(data) < 300 else [*range(60), *range(60, len(data), 37), len(data) - 1]:
        with pytest.raises(errors.FrameTruncated):
            decode_frame(data[:length])


@given(frame=frames(), more=st.binary(min_size=1, max_size=50))
@examples(50)
def test_longer_than_announced(frame: Frame, more: bytes) -> None:
    with pytest.raises(errors.FrameOversized):
        decode_frame(encode_frame(frame) + more)


@given(frame=frames(), data=st.data())
@examples(20)
def test_every_flipped_header_bit_and_some_payload_bits(frame: Frame, data: st.DataObject) -> None:
    sent = bytes(encode_frame(frame))
    bits = [*range(8 * 44), *(data.draw(st.integers(0, 8 * len(sent) - 1)) for _ in range(20))]
    for bit in bits:
        damaged = bytearray(sent)
        damaged[bit // 8] ^= 1 << bit % 8
        refusal = decode_or_refusal(damaged)
        assert isinstance(refusal, errors.FrameError), bit
        if bit >= 8 * 40:
            assert isinstance(refusal, errors.FrameChecksumMismatch)


# Offset in the header, format, values that are wrong there in a frame from activation(), and the error.
WRONG_HEADERS = [
    ("magic", 0, "2s", [b"BL", b"\0\0", b"lb"], errors.FrameVersionMismatch),
    ("version", 2, "B", [0, 2, 255], errors.FrameVersionMismatch),
    ("kind", 3, "B", [0, 8, 255], errors.FrameKindUnknown),
    ("dtype", 4, "B", [0, 4, 5, 255], errors.FrameDtypeMismatch),
    ("flags", 5, "B", [2, 4, 16, 255], errors.FrameShapeMismatch),
    ("count", 6, "H", [0, 2, 65535], errors.FrameShapeMismatch),
    ("position", 28, "I", [10_000_000, 2**32 - 1], errors.FrameShapeMismatch),
    ("width", 32, "I", [0, 3, 5, 2**20 + 1, 2**32 - 1], errors.FrameShapeMismatch),
    ("payload bytes, too many", 36, "I", [17, 2**32 - 1], errors.FrameTruncated),
    ("payload bytes, too few", 36, "I", [0, 15], errors.FrameOversized),
]


@pytest.mark.parametrize(
    ("offset", "layout", "values", "error"), [w[1:] for w in WRONG_HEADERS], ids=[w[0] for w in WRONG_HEADERS]
)
def test_wrong_header(offset: int, layout: str, values: list[Any], error: type[errors.FrameError]) -> None:
    for value in values:
        data = bytearray(encode_frame(activation()))
        struct.pack_into("<" + layout, data, offset, value)
        with pytest.raises(error):
            decode_frame(sealed(data))


@given(frame=frames(), data=st.data())
@examples(200)
def test_damaged_frames_with_a_right_checksum(frame: Frame, data: st.DataObject) -> None:
    """The checks stand without the CRC: what passes them can be sent again as it is."""
    damaged = bytearray(encode_frame(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 43))] = data.draw(st.integers(0, 255))
    result = decode_or_refusal(sealed(damaged))
    if isinstance(result, Frame):
        assert encode_frame(result) == damaged


@given(data=st.binary(max_size=120), header=st.booleans())
@examples(200)
def test_arbitrary_bytes(data: bytes, header: bool) -> None:
    if header:
        data = b"LB\x01" + data
    assert isinstance(decode_or_refusal(data), errors.FrameError)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("dtype", list(Dtype))
def test_dtypes_a_kind_cannot_carry(kind: Kind, dtype: Dtype) -> None:
    allowed = {
        Kind.ACTIVATION: {1, 2, 3}, Kind.TOKENS: {4}, Kind.KV_ROWS: {1, 2, 3}, Kind.REPLAY: {0}, Kind.KV_ACK: {0},
        Kind.LOGPROBS: {1}, Kind.GUESS: {4},
    }  # fmt: skip
    frame = activation(kind=kind, dtype=dtype, flags=0)
    if dtype not in allowed[kind]:
        with pytest.raises(errors.FrameDtypeMismatch):
            encode_frame(frame)


def test_most_alternatives_of_a_token() -> None:
    def logprobs(width: int) -> Frame:
        payload = bytes(2 * codec.logprobs_bytes(width))
        return activation(kind=Kind.LOGPROBS, flags=0, count=2, width=width, payload=payload)

    assert decode_frame(encode_frame(logprobs(limits.MAX_ALTERNATIVES))).width == limits.MAX_ALTERNATIVES
    assert decode_frame(encode_frame(logprobs(0))).width == 0
    with pytest.raises(errors.FrameShapeMismatch, match="21 alternatives"):
        encode_frame(logprobs(limits.MAX_ALTERNATIVES + 1))


def test_largest_payload() -> None:
    width = 2000
    count = limits.MAX_PAYLOAD_BYTES // (4 * width)
    payload = bytes(4 * count * width)
    assert len(payload) == limits.MAX_PAYLOAD_BYTES
    data = bytearray(encode_frame(activation(count=count, width=width, payload=payload)))
    assert decode_frame(data).payload == payload
    with pytest.raises(errors.FrameOversized):
        encode_frame(activation(count=count + 1, width=width, payload=payload + bytes(4 * width)))
    larger = data + bytes(4 * width)
    struct.pack_into("<H", larger, 6, count + 1)
    struct.pack_into("<I", larger, 36, len(larger) - 44)
    with pytest.raises(errors.FrameOversized):
        decode_frame(sealed(larger))


def test_widest_activation() -> None:
    def int8(width: int) -> Frame:
        payload = bytes(codec.activation_payload_bytes(Dtype.INT8, 1, width))
        return activation(dtype=Dtype.INT8, width=width, payload=payload)

    assert decode_frame(encode_frame(int8(codec.MAX_WIDTH))).width == codec.MAX_WIDTH
    with pytest.raises(errors.FrameShapeMismatch, match="outside the limits"):
        encode_frame(int8(codec.MAX_WIDTH + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 2},
        {"count": 0, "payload": b""},
        {"width": 3},
        {"width": 0, "payload": b""},
        {"count": -1},
        {"payload": b""},
        {"flags": int(Flag.STOP)},
        {"flags": 256},
        {"position": -1},
        {"position": codec.MAX_POSITION},
        {"position": 2**32},
        {"request": -1},
        {"request": 2**64},
        {"attempt": -1},
        {"attempt": 2**32},
        {"epoch": Epoch(generation=2**32, counter=0)},
        {"epoch": Epoch(generation=0, counter=-1)},
        {"count": 70_000, "width": 1, "payload": bytes(280_000)},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_nothing_invalid_is_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.FrameShapeMismatch):
        encode_frame(activation(**changes))


@given(frame=frames(), attempt=st.integers(0, 2**32 - 1))
@examples(80)
def test_restamp_changes_the_attempt_and_nothing_else(frame: Frame, attempt: int) -> None:
    data = bytearray(encode_frame(frame))
    before = bytes(data)
    again = codec.restamp(data, attempt)
    assert again == encode_frame(dataclasses.replace(frame, attempt=attempt))
    assert bytes(data) == before
    assert codec.restamp(again, frame.attempt) == before


@given(number=st.integers(0, 2**64 - 1))
@examples(50)
def test_request_ids_as_text_and_number(number: int) -> None:
    text = codec.request_id(number)
    assert len(text) == 16
    assert codec.request_number(text) == number


def kv_rows(header: bytes, width: int) -> Frame:
    return activation(kind=Kind.KV_ROWS, flags=0, width=width, payload=header + bytes(4 * width))


@given(layer=st.integers(0, 2**16 - 1), part=st.integers(0, 1), heads=st.integers(1, 16), head_dim=st.integers(1, 32))
@examples(60)
def test_kv_header_round_trip(layer: int, part: int, heads: int, head_dim: int) -> None:
    header = KvRowsHeader(layer=layer, part=part, heads=heads, head_dim=head_dim)
    frame = kv_rows(codec.pack_kv_header(header), heads * head_dim)
    assert codec.unpack_kv_header(decode_frame(encode_frame(frame))) == header


@given(header=st.binary(min_size=8, max_size=8), width=st.integers(1, 64))
@examples(100)
def test_kv_header_that_contradicts_the_frame(header: bytes, width: int) -> None:
    _, part, heads, head_dim = struct.unpack("<HHHH", header)
    assume(part > 1 or heads * head_dim != width)
    with pytest.raises(errors.FrameShapeMismatch):
        codec.unpack_kv_header(decode_frame(encode_frame(kv_rows(header, width))))


def test_kv_part_is_key_or_value() -> None:
    neither = codec.pack_kv_header(KvRowsHeader(layer=0, part=2, heads=2, head_dim=3))
    with pytest.raises(errors.FrameShapeMismatch, match="part 2"):
        codec.unpack_kv_header(decode_frame(encode_frame(kv_rows(neither, 6))))


def test_kv_header_of_another_kind() -> None:
    with pytest.raises(errors.FrameShapeMismatch, match="ACTIVATION frame has no KV rows"):
        codec.unpack_kv_header(decode_frame(encode_frame(activation())))


@given(epoch=instances(Epoch))
@examples(20)
def test_frames_carry_every_epoch_that_messages_carry(epoch: Epoch) -> None:
    assert decode_frame(encode_frame(activation(epoch=epoch))).epoch == epoch


def test_named_errors_have_one_root() -> None:
    for cls in errors.FrameError.__subclasses__():
        assert issubclass(cls, errors.ContractError)
        assert issubclass(cls, errors.LinguabusError)
