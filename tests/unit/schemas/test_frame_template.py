"""A stencil is another way to the same bytes, and takes no frame that is not its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import HEADER_BYTES, Dtype, Flag, Kind, decode_frame, pack_frame
from schemas.errors import FrameError
from schemas.frame_template import FrameTemplate
from schemas.messages import Epoch
from tests.support.strategies import examples

WIDTH = 5
EPOCH = Epoch(generation=7, counter=3)
FIELDS = {"kind": Kind.ACTIVATION, "dtype": Dtype.FP16, "flags": int(Flag.SAMPLE), "count": 1, "request": 2**63 + 5}
REST = {"epoch": EPOCH, "attempt": 2, "width": WIDTH}
PAYLOAD = bytes(range(2 * WIDTH + 1))
payloads = st.binary(min_size=len(PAYLOAD), max_size=len(PAYLOAD))


def stencil(position: int = 9, **changes: object) -> FrameTemplate:
    made = FrameTemplate(**(FIELDS | REST | {"payload_bytes": len(PAYLOAD)} | changes))
    made.at(position)
    return made


def frame(position: int, payload: bytes = PAYLOAD, **changes: object) -> bytes:
    return pack_frame(**(FIELDS | REST | {"position": position, "payload": payload} | changes))


@examples(100)
@given(position=st.integers(0, 9_999_999), payload=payloads)
def test_it_packs_what_the_codec_packs_and_reads_it(position: int, payload: bytes) -> None:
    data = stencil(position).pack(payload)
    assert data == frame(position, payload)
    assert stencil(position).read(data) == payload
    assert bytes(decode_frame(data).payload) == data[HEADER_BYTES:] == payload


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": Dtype.INT8, "payload": bytes(WIDTH + 2)},
        {"flags": 0},
        {"flags": int(Flag.SAMPLE | Flag.VERIFY), "payload": PAYLOAD + bytes(4)},
        {"count": 2, "payload": bytes(2 * len(PAYLOAD))},
        {"request": 5},
        {"epoch": Epoch(generation=7, counter=4)},
        {"epoch": Epoch(generation=8, counter=3)},
        {"attempt": 3},
        {"width": WIDTH + 1, "payload": bytes(2 * WIDTH + 3)},
        {"position": 8},
        {"position": 10},
    ],
)
def test_another_frame_is_none_of_its_own(changes: dict[str, object]) -> None:
    assert stencil().read(frame(**({"position": 9} | changes))) is None


def test_of_two_frames_in_a_message_it_takes_none() -> None:
    assert stencil().read(frame(9) + frame(10)) is None


@examples(200)
@given(data=st.data())
def test_a_damaged_frame_is_none_of_its_own(data: st.DataObject) -> None:
    damaged = bytearray(frame(9))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    assert stencil().read(bytes(damaged)) is None
    assert stencil().read(bytes(damaged[: data.draw(st.integers(0, len(damaged) - 1))])) is None


def test_a_stencil_of_what_can_not_be_sent() -> None:
    with pytest.raises(FrameError):
        stencil(payload_bytes=len(PAYLOAD) + 1)
    with pytest.raises(FrameError):
        stencil(flags=int(Flag.STOP))
