"""Sets of tokens: as they travel, as they are remembered, and those that are refused."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import MaskError
from schemas.token_mask import RecentMasks, mask_bytes, mask_id, pack_mask, unpack_mask

VOCABULARY = 100


def mask_of(*ids: int) -> bytes:
    return sum(1 << number for number in ids).to_bytes(mask_bytes(VOCABULARY), "little")


@given(st.sets(st.integers(0, VOCABULARY - 1), min_size=1))
def test_a_set_comes_out_as_it_went_in(ids: set[int]) -> None:
    mask = mask_of(*ids)
    assert unpack_mask(pack_mask(mask), VOCABULARY, mask_id(mask)) == mask


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("data", "mask", "said"),
    [
        ("AAAA", mask_of(1), "can't be unpacked"),
        (encoded(zlib.compress(mask_of(1))[:-3]), mask_of(1), "not of the 13 bytes"),
        (encoded(zlib.compress(mask_of(1)) + b"more"), mask_of(1), "not of the 13 bytes"),
        (encoded(zlib.compress(bytes(1 << 24))), mask_of(1), "not of the 13 bytes"),
        (pack_mask(b"\1" + bytes(39)), b"\1" + bytes(39), "not of the 13 bytes"),
        (pack_mask(mask_of(2)), mask_of(1), "not the one that its name says"),
        (pack_mask(mask_of()), mask_of(), "has none"),
        (pack_mask(mask_of(VOCABULARY)), mask_of(VOCABULARY), "beyond the vocabulary"),
    ],
    ids=["garbage", "cut", "longer", "bomb", "another-vocabulary", "another-set", "empty", "outside"],
)
def test_a_set_that_does_not_add_up_is_refused(data: str, mask: bytes, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        unpack_mask(data, VOCABULARY, mask_id(mask))


@given(st.lists(st.integers(0, 5)))
def test_both_ends_forget_the_same_sets(used: list[int]) -> None:
    sender: RecentMasks[bool] = RecentMasks(VOCABULARY, limit_bytes=3 * mask_bytes(VOCABULARY))
    receiver: RecentMasks[bytes] = RecentMasks(VOCABULARY, limit_bytes=3 * mask_bytes(VOCABULARY))
    for number in used:
        mask = mask_of(number)
        name = mask_id(mask)
        if sender.use(name):
            assert receiver.use(name) == mask
        else:
            sender.add(name, True)
            receiver.add(name, mask)
        assert len(sender) == len(receiver) <= 3


def test_one_set_is_remembered_however_long_it_is() -> None:
    recent: RecentMasks[bool] = RecentMasks(VOCABULARY, limit_bytes=1)
    recent.add("one", True)
    assert recent.use("one")
