"""What a node says before it computes for long."""

from __future__ import annotations

import pytest

from edge_node.stage.stage_stats import StageStats
from edge_node.telemetry.busy import UNKNOWN_S, WORTH_TELLING_S, busy_s


def test_a_short_run_is_not_worth_telling() -> None:
    assert busy_s(WORTH_TELLING_S / 2) == 0.0


@pytest.mark.parametrize("expected_s", [0.5, 3.0, 60.0])
def test_a_long_run_is_given_time_to_spare(expected_s: float) -> None:
    assert busy_s(expected_s) > 2 * expected_s


def test_nothing_is_known_before_the_first_run_of_its_kind() -> None:
    stats = StageStats()
    assert stats.expected_s(1, 32) is None
    stats.computed(1, 32, 3.2)
    assert stats.expected_s(1, 32) == pytest.approx(3.2)
    assert stats.expected_s(1, 16) == pytest.approx(1.6)
    assert stats.expected_s(1, 1) is None, "a step is another kind"
    stats.computed(2, 1, 0.2)
    assert stats.expected_s(4, 1) == pytest.approx(0.4)
    assert busy_s(None) == UNKNOWN_S
