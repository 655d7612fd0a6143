"""A node that starts, and its broker is not there: it goes on looking, and seldom in the end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from broker.bus import Bus
from broker.errors import BrokerUnreachable
from edge_node.wire.first_connection import LONGEST_PAUSE_S, connect_patiently

DAY_S = 86_400.0
REFUSES_S = 0.1
"""What an attempt takes."""


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000.0
        monkeypatch.setattr(
            "edge_node.wire.first_connection.time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=self.pass_s)
        )

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


class Away:
    """A broker that comes back after a while."""

    def __init__(self, clock: Clock, away_s: float) -> None:
        self._clock, self._back_s = clock, clock.now_s + away_s
        self.attempts = 0

    def connect(self, _: float) -> None:
        self.attempts += 1
        self._clock.pass_s(REFUSES_S)
        if self._clock.now_s < self._back_s:
            raise BrokerUnreachable("mqtts://host.local:8883", "no route to host")


@pytest.mark.parametrize(("away_s", "most_attempts"), [(5.0, 6), (60.0, 45), (DAY_S, 3_000)])
def test_a_broker_is_found_soon_after_it_is_back(
    monkeypatch: pytest.MonkeyPatch, away_s: float, most_attempts: int
) -> None:
    clock = Clock(monkeypatch)
    began_s, bus = clock.now_s, Away(clock, away_s)
    told: list[str] = []
    connect_patiently(cast(Bus, bus), 10.0, tell=told.append, is_over=lambda: False)
    late_s = clock.now_s - began_s - away_s
    assert late_s <= max(2.0, min(away_s / 9, LONGEST_PAUSE_S)) + 2 * REFUSES_S
    assert bus.attempts <= most_attempts
    assert set(told) == {"waits for the broker: mqtts://host.local:8883: no route to host"}


def test_a_node_that_is_asked_to_stop_does_not_wait_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    began_s, bus = clock.now_s, Away(clock, DAY_S)
    with pytest.raises(BrokerUnreachable):
        connect_patiently(cast(Bus, bus), 10.0, tell=lambda _: None, is_over=lambda: clock.now_s > began_s + 7_200)
    assert clock.now_s - began_s < 7_200 + 5
