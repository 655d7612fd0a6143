"""Whatever dies by a schedule of faults: every request ends in the right text, and every message is as it should be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults.play import Worlds
from tests.faults.schedule import FREEZE_S, LONG, SHORT, WHOLE, Kind, Schedule, make_schedule

SEEDS = (709, 713, 2095, 3053, 3338, 5930)
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


def test_a_seed_makes_one_schedule() -> None:
    assert make_schedule(7, LONG) == make_schedule(7, LONG) != make_schedule(8, LONG)


def test_schedules_keep_within_what_is_asked_for() -> None:
    kinds = {Kind.NODE_SILENT, Kind.NODE_KILLED, Kind.BROKER_AWAY, Kind.REBALANCED}
    faults = [
        fault for seed in range(100) for fault in make_schedule(seed, WHOLE, kinds, {Kind.BROKER_AWAY: 2.0}).faults
    ]
    longest_s = {kind: max(fault.lasts_s for fault in faults if fault.kind is kind) for kind in kinds}
    assert longest_s.pop(Kind.NODE_KILLED) > FREEZE_S
    assert longest_s == {Kind.NODE_SILENT: FREEZE_S, Kind.BROKER_AWAY: 2.0, Kind.REBALANCED: 0.0}
    assert {fault.kind for fault in faults} == kinds
