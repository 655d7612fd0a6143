"""What a move is predicted to cost: nothing that is there already is loaded again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.planning.moves.move_cost import DOWNLOAD_SHARE, LOAD_BYTES_PER_S, LOAD_SHARE, loading_s, move_cost
from orchestrator.planning.problem import Stage
from orchestrator.planning.solution import Standby
from tests.support.fleets import MB, device, fleet

PLAIN = fleet(*(device(name, 1.0, 2000) for name in "abc"))
PROBLEM = replace(
    PLAIN,
    devices=tuple(replace(one, link_bytes_per_s=10e6) for one in PLAIN.devices),
    runs=tuple(replace(run, kv_bytes_per_token=1000) for run in PLAIN.runs),
)
RUNNING = (Stage("a", 0, 6), Stage("b", 6, 12))
FOUND = (Stage("a", 0, 4), Stage("b", 4, 12))
DOWNLOAD_S = 2 * 100 * MB / 10e6


def test_changed_stages_are_opened_and_what_they_lack_is_downloaded() -> None:
    opened_s = 8 * 100 * MB / LOAD_BYTES_PER_S
    assert loading_s(PROBLEM, RUNNING, FOUND) == pytest.approx(LOAD_SHARE * opened_s + DOWNLOAD_SHARE * DOWNLOAD_S)
    cost = move_cost(PROBLEM, RUNNING, FOUND, positions=0)
    assert cost.prepare_s >= opened_s + DOWNLOAD_S
    assert cost.lost_s == loading_s(PROBLEM, RUNNING, FOUND)


def test_units_on_standby_are_not_downloaded() -> None:
    standby = (Standby("b", 4, 6, 4, 4),)
    saved_s = loading_s(PROBLEM, RUNNING, FOUND) - loading_s(PROBLEM, RUNNING, FOUND, standby)
    assert saved_s == pytest.approx(DOWNLOAD_SHARE * DOWNLOAD_S)


def test_the_same_plan_costs_nothing_and_longer_contexts_cost_more() -> None:
    assert loading_s(PROBLEM, RUNNING, RUNNING) == 0.0
    short, long = (move_cost(PROBLEM, RUNNING, FOUND, positions=count) for count in (100, 1000))
    assert short.lost_s < long.lost_s
    quick = move_cost(PROBLEM, RUNNING, FOUND, positions=1000, rates=dict.fromkeys("ab", 1e9))
    assert quick.prepare_s < long.prepare_s
