"""The smoothed mean, and waits that grow."""

from __future__ import annotations

import pytest

from schemas.back_off import back_off_s, out_of_step
from schemas.ewma import ewma


def test_the_first_sample_counts_alone_and_later_ones_by_their_weight() -> None:
    mean = ewma(None, 8.0, 0.25)
    assert mean == 8.0
    assert ewma(mean, 4.0, 0.25) == pytest.approx(0.75 * 8.0 + 0.25 * 4.0)


def test_a_wait_doubles_up_to_its_limit() -> None:
    assert [back_off_s(0.5, times, 5.0) for times in range(5)] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert back_off_s(0.5, 10_000, 5.0) == 5.0
    assert back_off_s(3.0, 2) == 12.0


def test_those_that_failed_together_do_not_come_back_together() -> None:
    waits_s = {out_of_step(4.0) for _ in range(50)}
    assert len(waits_s) > 1
    assert all(2.0 <= wait_s <= 4.0 for wait_s in waits_s)
