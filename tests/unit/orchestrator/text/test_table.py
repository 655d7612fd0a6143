"""Tables for a terminal."""

from __future__ import annotations

from orchestrator.text.table import table


def test_tables_align_numbers_to_the_right() -> None:
    assert table(("name", "MB"), [("a", "5"), ("long name", "1,234.5")]) == (
        "name            MB\na                5\nlong name  1,234.5"
    )
    assert table(("name",), []) == "name"


def test_columns_are_aligned_as_told() -> None:
    assert table(("a", "name"), [("1", "x"), ("22", "y")], right={1}) == "a   name\n1      x\n22     y"
