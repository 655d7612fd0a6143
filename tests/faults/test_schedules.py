"""Whatever dies by a schedule of faults: every request ends in the right text, and every message is as it should be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults.play import Worlds
from tests.faults.schedule import LONG, SHORT, WHOLE, Schedule, make_schedule

SEEDS = (76, 93, 3053, 4976, 5666, 5793)
"""Chosen so that most kinds of faults come up, in the middle of answers."""
LONG_SEEDS = 200
TOGETHER = 10
"""Seeds of one world."""


def expect_nothing_lost(folder: Path, schedules: Iterable[Schedule], *, retains: bool = True) -> None:
    """Play schedules one after the other."""
    with Worlds(folder, retains=retains) as worlds:
        reports = [worlds.play(schedule) for schedule in schedules]
    lost = [str(report) for report in reports if report.wrong]
    assert not lost, "\n".join(lost)


def test_short_schedules(tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, (make_schedule(seed, SHORT) for seed in SEEDS))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(1, LONG_SEEDS + 1, TOGETHER))
def test_long_schedules(first: int, tmp_path: Path) -> None:
    """The last of each world waits for up to a minute; every other broker forgets what it was told to retain."""
    shapes = [LONG] * (TOGETHER - 1) + [WHOLE]
    schedules = (make_schedule(first + number, shape) for number, shape in enumerate(shapes))
    expect_nothing_lost(tmp_path, schedules, retains=bool(first // TOGETHER % 2))
