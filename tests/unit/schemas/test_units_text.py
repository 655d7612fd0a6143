"""Units as people name them."""

from __future__ import annotations

import pytest

from schemas.units_text import describe_units, units_text


@pytest.mark.parametrize(
    ("start", "stop", "text"),
    [
        (0, 6, "embed, blocks 0-3, head"),
        (0, 1, "embed"),
        (0, 2, "embed, block 0"),
        (2, 5, "blocks 1-3"),
        (4, 5, "block 3"),
        (5, 6, "head"),
        (3, 6, "blocks 2-3, head"),
    ],
)
def test_units_of_a_model(start: int, stop: int, text: str) -> None:
    assert describe_units(start, stop, 6) == text


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (["block"] * 3, "blocks 0-2"),
        (["embed", "block"], "embed, block 0"),
        (["head"], "head"),
        (["block", "head"], "block 0, head"),
    ],
)
def test_units_of_a_chain_that_lacks_some(kinds: list[str], text: str) -> None:
    assert units_text(kinds, 0, len(kinds)) == text
