"""Faults for some minutes, and no process holds more afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import Held, growth, soak

MINUTES = 5.0
BEFORE = {"a": Held(100_000_000, 4, 20)}


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (Held(105_000_000, 6, 24), ""),
        (Held(106_000_000, 4, 20), "memory grew from 100 to 106 MB"),
        (Held(100_000_000, 7, 20), "threads grew from 4 to 7"),
        (Held(100_000_000, 4, 25), "file handles grew from 20 to 25"),
    ],
)
def test_what_has_grown_is_named(after: Held, named: str) -> None:
    found = growth(BEFORE, {"a": after})
    assert len(found) == bool(named)
    assert named in "".join(found)


@pytest.mark.long
def test_nothing_grows(tmp_path: Path) -> None:
    assert soak(tmp_path, MINUTES) == []
