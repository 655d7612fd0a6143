"""Keys of members, and what others are told of them."""

from __future__ import annotations

import pytest

from broker.member_key import hash_of, is_hash, is_key, new_key


def test_a_key_has_its_hash_and_no_other() -> None:
    key, other = new_key(), new_key()
    assert key != other
    assert is_key(key, hash_of(key))
    assert not is_key(other, hash_of(key))
    assert hash_of(key) != hash_of(key), "salted"


def test_a_hash_tells_nothing_of_the_key() -> None:
    key = new_key()
    assert key not in hash_of(key)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "$7$101$", "$6$101$AAAA$AAAA", "$7$101$A$A", hash_of("k") + "\nroot:" + hash_of("k"),
        hash_of("k") + "$", hash_of("k")[:-4], hash_of("k").replace("$101$", "$1$"), " " + hash_of("k"),
        hash_of("k").replace("=", "!"),
    ],
)  # fmt: skip
def test_what_is_no_hash_is_not_taken_for_one(text: str) -> None:
    assert not is_hash(text)
    assert not is_key("k", text)
