"""How quickly a node's battery is emptied: by its work, and without any (pure)."""

from __future__ import annotations

from schemas.messages import Heartbeat

LEAST_S = 600.0
"""Over less time a rate says nothing: most devices tell their charge in whole per cent."""
_LONGEST_S = 60.0
"""What happened in a longer silence nobody knows."""


class BatteryTrend:
    """Change of charge per hour, with requests open and with none, since the charger came or went."""

    def __init__(self) -> None:
        self._last: tuple[float, float, bool] | None = None
        """Of the last reading: when, the charge, whether requests were open."""
        self._charging: bool | None = None
        self._serving, self._idle = _Rate(), _Rate()

    @property
    def serving_percent_per_hour(self) -> float | None:
        """While requests are open on it; None as long as that is not known."""
        return self._serving.percent_per_hour

    @property
    def idle_percent_per_hour(self) -> float | None:
        """While none are."""
        return self._idle.percent_per_hour

    def heard(self, beat: Heartbeat, now_s: float) -> None:
        """One more reading."""
        if beat.battery_percent is None:
            return
        if beat.charging is not self._charging:
            self._serving, self._idle = _Rate(), _Rate()
            self._last, self._charging = None, beat.charging
        if self._last:
            before_s, charge, was_serving = self._last
            if now_s - before_s <= _LONGEST_S:
                rate = self._serving if was_serving else self._idle
                rate.add(beat.battery_percent - charge, now_s - before_s)
        self._last = now_s, beat.battery_percent, any(stage.open_requests for stage in beat.stages)


class _Rate:
    def __init__(self) -> None:
        self._percent = self._passed_s = 0.0

    def add(self, percent: float, passed_s: float) -> None:
        self._percent += percent
        self._passed_s += passed_s

    @property
    def percent_per_hour(self) -> float | None:
        return 3600 * self._percent / self._passed_s if self._passed_s >= LEAST_S else None
