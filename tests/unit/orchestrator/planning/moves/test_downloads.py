"""What nodes fetch to go from one plan to another."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.moves.downloads import downloads
from orchestrator.planning.problem import Stage
from orchestrator.planning.solution import Standby
from tests.support.fleets import MB, device, fleet


def test_what_is_taken_over_is_fetched_unless_it_is_kept_on_standby() -> None:
    problem = fleet(device("a", 1.0, 900), device("b", 2.0, 900))
    old, new = (Stage("a", 0, 6), Stage("b", 6, 12)), (Stage("a", 0, 8), Stage("b", 8, 12))
    assert downloads(problem, old, new) == {"a": 200 * MB, "b": 0}
    assert downloads(problem, old, new, (Standby("a", 6, 7, 6, 6),)) == {"a": 100 * MB, "b": 0}
    assert downloads(problem, old, new, (Standby("b", 6, 7, 6, 6),)) == {"a": 200 * MB, "b": 0}, "another's"
    assert downloads(problem, old, old) == {"a": 0, "b": 0}


def test_a_node_that_is_gone_and_a_head_that_is_tied_to_the_embedding_that_is_there() -> None:
    problem = replace(fleet(device("a", 1.0, 2000)), tied_bytes=100 * MB)
    found = downloads(problem, (Stage("a", 0, 6), Stage("gone", 6, 12)), (Stage("a", 0, 12),))
    assert found == {"a": 500 * MB, "gone": 0}
