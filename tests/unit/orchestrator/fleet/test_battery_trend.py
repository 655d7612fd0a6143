"""What a battery loses by work and without any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.fleet.battery_trend import LEAST_S, BatteryTrend
from schemas.messages import Epoch, Heartbeat, StageMetrics
from tests.support.scripted_nodes import make_heartbeat

STAGE = StageMetrics(pipeline="main", epoch=Epoch(generation=1, counter=1), stage=0, open_requests=1)


def beat(percent: float | None, *, serving: bool = False, charging: bool = False) -> Heartbeat:
    changes: dict[str, Any] = {"battery_percent": percent, "charging": charging, "stages": (STAGE,) * serving}
    return replace(make_heartbeat("a"), **changes)


def test_work_and_rest_are_told_apart() -> None:
    trend = BatteryTrend()
    percent, now_s = 90.0, 0.0
    for serving, per_hour, minutes in ((False, -1.0, 9), (True, -12.0, 9), (False, -1.0, 9), (True, -12.0, 9)):
        for _ in range(2 * minutes):
            trend.heard(beat(percent, serving=serving), now_s)
            now_s, percent = now_s + 30.0, percent + per_hour * 30 / 3600
    trend.heard(beat(percent), now_s)
    assert trend.idle_percent_per_hour == pytest.approx(-1.0)
    assert trend.serving_percent_per_hour == pytest.approx(-12.0)


def test_a_rate_is_known_after_a_while_and_no_longer_when_the_charger_comes() -> None:
    trend = BatteryTrend()
    for step in range(int(LEAST_S / 30) + 1):
        assert trend.idle_percent_per_hour is None
        trend.heard(beat(80.0 - step / 120), 30.0 * step)
    assert trend.idle_percent_per_hour == pytest.approx(-1.0)
    assert trend.serving_percent_per_hour is None
    trend.heard(beat(None, charging=True), 800.0)
    assert trend.idle_percent_per_hour is not None, "that there is no reading says nothing"
    trend.heard(beat(77.0, charging=True), 830.0)
    assert trend.idle_percent_per_hour is None


def test_a_day_of_silence_counts_nothing() -> None:
    trend = BatteryTrend()
    for step in range(30):
        trend.heard(beat(80.0), 30.0 * step + 86_400.0 * (step >= 25))
    trend.heard(beat(20.0), 3 * 86_400.0)
    assert trend.idle_percent_per_hour == 0.0
