"""Strings that know who wrote them: they behave as strings, and every character keeps its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.model.template_text import OWN, TYPED, UNKNOWN, Text, joined, origins_of, own, typed

OURS, THEIRS = "abAß\n ", "xyX,\t"  # so that a character says where it comes from
PARTS = st.lists(st.one_of(st.text(OURS, max_size=4).map(own), st.text(THEIRS, max_size=4).map(typed)), max_size=6)
SEPARATORS = st.text(OURS + THEIRS, min_size=1, max_size=2)


def check(result: Any, expected: Any) -> None:
    """Equal to what a plain string gives, and each character has the origin that it shows."""
    assert result == expected
    if isinstance(result, str):
        assert len(origins_of(result)) == len(result)
        for letter, origin in zip(result, origins_of(result), strict=True):
            if origin != UNKNOWN[0]:
                assert (letter.lower() in OURS.lower()) == (origin == OWN[0]), (result, origins_of(result))
    else:
        for item, plain in zip(result, expected, strict=True):
            check(item, plain)


def known(result: str) -> bool:
    return UNKNOWN[0] not in origins_of(result)


@pytest.mark.parametrize(
    "name", ["strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "upper", "lower", "title"]
)
@settings(max_examples=40, deadline=None)
@given(parts=PARTS)
def test_methods_without_arguments(name: str, parts: list[Text]) -> None:
    text = joined(parts)
    check(getattr(text, name)(), getattr("".join(parts), name)())


@pytest.mark.parametrize(
    "name", ["split", "rsplit", "partition", "rpartition", "strip", "removeprefix", "removesuffix"]
)
@settings(max_examples=40, deadline=None)
@given(parts=PARTS, separator=SEPARATORS)
def test_methods_with_a_separator(name: str, parts: list[Text], separator: str) -> None:
    check(getattr(joined(parts), name)(separator), getattr("".join(map(str, parts)), name)(separator))


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, separator=st.one_of(st.none(), SEPARATORS), most=st.integers(-1, 3))
def test_splitting_a_few_times(parts: list[Text], separator: str | None, most: int) -> None:
    plain = str.join("", parts)
    check(joined(parts).split(separator, most), plain.split(separator, most))
    check(joined(parts).rsplit(separator, most), plain.rsplit(separator, most))
    check(joined(parts).splitlines(keepends=True), plain.splitlines(keepends=True))


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, old=st.text(OURS + THEIRS, max_size=2), new=st.text(OURS, max_size=3), most=st.integers(-1, 2))
def test_replacing(parts: list[Text], old: str, new: str, most: int) -> None:
    check(joined(parts).replace(old, own(new), most), str.join("", parts).replace(old, new, most))


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, start=st.integers(-9, 9), stop=st.integers(-9, 9), step=st.sampled_from([1, 2, -1]))
def test_slices_and_letters(parts: list[Text], start: int, stop: int, step: int) -> None:
    text, plain = joined(parts), str.join("", parts)
    check(text[start:stop:step], plain[start:stop:step])
    check(list(text), list(plain))
    assert all(known(letter) for letter in text)


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, times=st.integers(-1, 3))
def test_putting_together(parts: list[Text], times: int) -> None:
    text, plain = joined(parts), str.join("", parts)
    check(text * times, plain * times)
    check(own(", ").replace(",", "a").join(parts), "a ".join(str.join("", [part]) for part in parts))
    check("".join(["a"]) + text, "a" + plain)
    check(text + "a", plain + "a")


def test_what_is_not_followed_is_unknown() -> None:
    unknown = (own("-%s") % typed("x"), own("-{}").format(typed("x")), typed("x").center(3), typed("ß").upper())
    assert not any(known(text) for text in unknown)
    assert origins_of("plain" + typed("x")) == UNKNOWN * 5 + TYPED
    assert origins_of(joined([1, own("a")])) == UNKNOWN + OWN


def test_a_separator_that_holds_the_next_part_does_not_mislead() -> None:
    parts = joined([typed("x"), own("aab"), typed("ab")]).split("aab")
    assert [origins_of(part) for part in parts] == [TYPED, TYPED * 2]


def test_a_string_it_is() -> None:
    text = joined([own("a"), typed("x")])
    operations: Iterable[Callable[[Any], Any]] = (hash, len, str.isalpha, lambda t: "x" in t, lambda t: {t: 1}["ax"])
    assert all(operation(text) == operation("ax") for operation in operations)
    assert str(text) is text
