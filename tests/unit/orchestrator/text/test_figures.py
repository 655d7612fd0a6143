"""Sizes and ages for people."""

from __future__ import annotations

import pytest

from orchestrator.text.figures import SHORT_AGES, age_text, megabytes, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (12, "12 bytes"),
        (3_100_000_000, "3.1 GB"),
        (940_000_000, "940 MB"),
        (12_345, "12.3 kB"),
        (-2_000_000, "-2.0 MB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_megabytes() -> None:
    assert megabytes(1_234_567_890) == "1,235 MB"
    assert megabytes(1_234_567, 1) == "1.2 MB"


@pytest.mark.parametrize(
    ("age_s", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 minutes"), (7199, "120 minutes"), (90_000, "25 hours")]
)
def test_ages_for_people(age_s: float, text: str) -> None:
    assert age_text(age_s) == text
    assert age_text(86_400 * 9) == "9 days"
    assert [age_text(age_s, SHORT_AGES) for age_s in (90, 120, 86_400)] == ["90 s", "2 min", "24 h"]
