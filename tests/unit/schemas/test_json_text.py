"""JSON as it is written and read: compact, strict, and how deep it goes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import json_text
from tests.support.strategies import examples

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def deep_by_definition(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(deep_by_definition, children), default=0)


@given(VALUES)
@examples(100)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert json_text.read(json_text.compact(value)) == value
    assert json_text.depth(value) == deep_by_definition(value)


def test_letters_are_as_they_are_and_nothing_is_spaced() -> None:
    assert json_text.compact({"a": ["ä", 1]}) == '{"a":["ä",1]}'


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_no_json(constant: str) -> None:
    with pytest.raises(ValueError, match=f"^{constant} is not a JSON number$"):
        json_text.read(f'{{"a": [{constant}]}}')
    with pytest.raises(ValueError, match="JSON"):
        json_text.compact(json.loads(constant))


def test_depth_is_no_matter_of_recursion() -> None:
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    assert json_text.depth(value) == 10_001
    while value:  # nor is letting go of it
        value = value.pop()
