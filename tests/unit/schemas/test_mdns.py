"""Messages of multicast DNS: ours are read as they were meant, others' are no harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import MessageError
from schemas.mdns import Announcement, announcements, answer, asks_for_fleets, question

HOME = Announcement("3f2a91c04b7d", 8765, ("192.168.1.5", "fd00::1"), 1)
IDS = st.text("0123456789abcdef", min_size=1, max_size=40)
ADDRESSES = st.lists(st.ip_addresses().map(str), min_size=1, max_size=16).map(tuple)


@given(st.builds(Announcement, IDS, st.integers(1, 65535), ADDRESSES, st.integers(0, 9999)), st.integers(0, 65535))
def test_what_is_announced_is_what_is_read(said: Announcement, number: int) -> None:
    assert announcements(answer(said, number)) == announcements(answer(said, None)) == (said,)
    assert struct.unpack_from(">H", answer(said, number)) == (number,)


def test_a_question_is_known_by_its_service() -> None:
    assert asks_for_fleets(question()) == 0
    assert asks_for_fleets(question().replace(b"_linguabus", b"_googlecast"[:10])) is None
    assert asks_for_fleets(answer(HOME, None)) is None
    assert announcements(question()) == ()


@given(st.binary(max_size=300))
def test_what_is_not_dns_is_no_harm(message: bytes) -> None:
    for read in (asks_for_fleets, announcements):
        try:
            read(message)
        except MessageError:
            continue


@given(st.data())
def test_what_is_changed_on_its_way_is_no_harm(data: st.DataObject) -> None:
    message = bytearray(answer(HOME, 7))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = announcements(bytes(message[: data.draw(st.integers(0, len(message)))]))
    except MessageError:
        return
    assert all(0 < one.port < 65536 and set(one.fleet) <= set("0123456789abcdef") for one in found)


def test_a_name_that_points_at_itself_ends() -> None:
    looping = struct.pack(">HHHHHH", 0, 0, 1, 0, 0, 0) + b"\xc0\x0c" + b"\0\x0c\0\x01"
    with pytest.raises(MessageError, match="too long"):
        asks_for_fleets(looping)
    with pytest.raises(MessageError, match="too many"):
        announcements(bytes(9001))
