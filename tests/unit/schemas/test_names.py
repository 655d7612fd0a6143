"""What may be a name, and what becomes of what may not."""

from __future__ import annotations

import pytest

from schemas import names
from schemas.errors import TopicError
from schemas.topics import NODE_BIRTH


@pytest.mark.parametrize("name", ["a", "7", "Kitchen-phone_2.local", "x" * names.MAX_LENGTH])
def test_names(name: str) -> None:
    assert names.is_name(name)
    assert names.name_from(name) == name
    assert NODE_BIRTH.match(NODE_BIRTH.format(node=name)) == {"node": name}


@pytest.mark.parametrize("text", ["", "-a", ".a", "a/b", "a b", "a\n", "ä", "+", "#", "x" * (names.MAX_LENGTH + 1)])
def test_no_names(text: str) -> None:
    assert not names.is_name(text)
    with pytest.raises(TopicError, match="letters, digits"):
        NODE_BIRTH.format(node=text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Anna's phone", "Anna-s-phone"), ("--x--", "x"), ("äöü", ""), ("", ""), ("a" * 90, "a" * names.MAX_LENGTH)],
)
def test_the_name_that_is_most_like_a_text(text: str, name: str) -> None:
    assert names.name_from(text) == name
    assert not name or names.is_name(name)
