"""Whatever dies by a schedule of faults: every request ends in the right text, and every message is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.play import Worlds
from tests.faults.schedule import LONG, SHORT, Shape, make_schedule

SEEDS = (11, 47, 467, 621, 1728, 2814)
"""Chosen so that most kinds of faults come up, in the middle of answers."""
LONG_SEEDS = 200
TOGETHER = 10
"""Seeds of one world."""


def expect_nothing_lost(folder: Path, seeds: Sequence[int], shape: Shape) -> None:
    """Play the schedules of some seeds one after the other."""
    with Worlds(folder) as worlds:
        reports = [worlds.play(make_schedule(seed, shape)) for seed in seeds]
    lost = [str(report) for report in reports if report.wrong]
    assert not lost, "\n".join(lost)


def test_short_schedules(tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, SEEDS, SHORT)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1, LONG_SEEDS + 1, TOGETHER))
def test_long_schedules(first: int, tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, range(first, first + TOGETHER), LONG)
