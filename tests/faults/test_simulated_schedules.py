"""The same faults in simulated time: many schedules, short and long ones, on the real cores and services.

``python -m tests.faults.simulation --seed N`` prints one and plays it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.effects import WriteKvRows
from tests.faults.schedule import HOLD_TODAY, LONG, SHORT, Kind, Shape, make_schedule
from tests.support.simulated_fleet import SimulatedFleet, play
from tests.support.simulated_ring import SimulatedNode

SHORT_SEEDS, LONG_SEEDS = 16, 2
MANY_SEEDS, TOGETHER = 20_000, 500
"""In all, and of one test."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def expect_nothing_lost(folder: Path, seeds: range, shape: Shape) -> None:
    """Play the schedules of some seeds; every other broker forgets what it was told to retain."""
    lost = []
    for seed in seeds:
        report = play(folder / str(seed), make_schedule(seed, shape, HOLD_TODAY), retains=bool(seed % 2))
        lost += [str(report)] if report.wrong else []
    assert not lost, "\n".join(lost)


def test_short_schedules(tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, range(1, SHORT_SEEDS + 1), SHORT)


def test_long_schedules(tmp_path: Path) -> None:
    expect_nothing_lost(tmp_path, range(1, LONG_SEEDS + 1), LONG)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(1, MANY_SEEDS, TOGETHER))
def test_many_schedules(first: int, tmp_path: Path) -> None:
    """One in ten is long."""
    shape = LONG if first // TOGETHER % 10 == 0 else SHORT
    expect_nothing_lost(tmp_path, range(first, first + TOGETHER), shape)


def test_a_seed_is_played_in_the_same_way_each_time(tmp_path: Path) -> None:
    def messages(folder: Path) -> str:
        known = hashlib.sha256()
        fleet = SimulatedFleet(folder, make_schedule(11, SHORT, HOLD_TODAY))
        see = fleet.broker.seen
        fleet.broker.seen = lambda topic, payload: (known.update(topic.encode() + payload), see(topic, payload))[1]
        fleet.play()
        fleet.close()
        return known.hexdigest()

    assert messages(tmp_path / "one") == messages(tmp_path / "two")


def test_a_wrong_row_gives_a_wrong_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks find something: here one row of those that move to another node."""

    def write(node: SimulatedNode, rows: WriteKvRows) -> None:
        write_right(node, rows)
        node.caches[rows.key][rows.header.layer][rows.slot][rows.header.part][rows.frame.position] ^= 1

    write_right = SimulatedNode.write_rows
    monkeypatch.setattr(SimulatedNode, "write_rows", write)
    schedules = [make_schedule(seed, SHORT, {Kind.LAYERS_MOVED, Kind.NODE_KILLED}) for seed in range(1, 9)]
    reports = [play(tmp_path / str(schedule.seed), schedule) for schedule in schedules]
    assert any("wrong: " in line for report in reports for line in report.wrong)
