"""The file of a known answer."""

import struct
from dataclasses import replace

import pytest

from schemas.errors import MessageError
from schemas.known_answer import KnownAnswer, decode_known_answer, encode_known_answer, places

KNOWN = KnownAnswer(
    positions=5, width_in=3, rows=5, values=2, width_out=4, tolerance=0.5,
    given=struct.pack("<15f", *range(15)), norms=struct.pack("<5f", *range(5)),
    expected=struct.pack("<10f", *range(10)),
)  # fmt: skip


def test_there_and_back() -> None:
    of_ids = replace(KNOWN, width_in=0, given=struct.pack("<5i", *range(5)))
    for known in (KNOWN, of_ids):
        assert decode_known_answer(encode_known_answer(known)) == known


def test_places_are_spread_over_the_whole_width() -> None:
    assert places(4, 4) == [0, 1, 2, 3]
    kept = places(49152, 4096)
    assert (kept[0], kept[1], kept[-1]) == (0, 12, 49140)
    assert len(set(places(320, 319))) == 319


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"LBKA" + bytes(30), "no known answer of version 1"),
        (b"HTML" + encode_known_answer(KNOWN)[4:], "no known answer"),
        (encode_known_answer(KNOWN) + b"\0", "contradict"),
        (encode_known_answer(KNOWN)[:-4], "contradict"),
        (encode_known_answer(replace(KNOWN, values=0, expected=b"")), "contradict"),
        (encode_known_answer(replace(KNOWN, tolerance=float("nan"))), "without a tolerance"),
    ],
)
def test_what_is_none_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        decode_known_answer(data)
