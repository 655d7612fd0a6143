"""Whatever dies by a schedule of faults: every request ends in the right text, and every message is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.commands.settings import default_cache
from orchestrator.demo.model import demo_model
from tests.faults.play import play, undisturbed
from tests.faults.schedule import LONG, SHORT, Shape, make_schedule

SEEDS = range(1, 7)
LONG_SEEDS = 200
TOGETHER = 10
"""Seeds of one world."""


def expect_nothing_lost(folder: Path, seeds: Sequence[int], shape: Shape) -> None:
    """Play the schedules of some seeds one after the other in one world."""
    store, model = demo_model(default_cache(), "steady")
    lost = []
    with undisturbed(store, model, folder / "world") as (world, expected):
        for seed in seeds:
            report = play(world, make_schedule(seed, shape), expected)
            print(report)
            if report.wrong:
                lost.append(str(report))
    assert not lost, "\n".join(lost)


def test_short_schedules(tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, SEEDS, SHORT)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1, LONG_SEEDS + 1, TOGETHER))
def test_long_schedules(first: int, tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, range(first, first + TOGETHER), LONG)
