"""The health of nodes: which should be spared, and which can't be believed, by their heartbeats (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.fleet.battery_trend import BatteryTrend
from orchestrator.fleet.plausibility import oddities
from orchestrator.text.figures import megabytes
from schemas.limits import LOW_MEMORY_BYTES, OVER_MEMORY_SHARE, STALLED_MEMORY_PERCENT
from schemas.messages import Heartbeat

TRUST_S = 10.0
"""A node whose numbers made no sense is believed again after this long without another one."""


@dataclass(frozen=True, kw_only=True)
class HealthLimits:
    """When a node gives up its layers, and how it is slowed in plans before that."""

    battery_low_percent: float = 15.0
    """At this charge, not charging, a node gives up its layers; 0: never."""
    battery_margin_percent: float = 10.0
    """It may have some again this much above."""
    hot_c: float = 45.0
    """At this temperature of its battery a node gives up its layers. Chips are hotter, and slow down by themselves."""
    heat_margin_c: float = 5.0
    """It may have some again this much below."""
    memory_low_bytes: int = LOW_MEMORY_BYTES
    """With less left in its system a node gives up its layers; it may have some again at twice of it. 0: never."""
    memory_stalled_percent: float = STALLED_MEMORY_PERCENT
    """At this share of the time in which all its work waits for memory, too; it may have some again at half of it."""
    memory_over_share: float = OVER_MEMORY_SHARE
    """With layers that take more than this of what it may use, too."""
    dwell_s: float = 3.0
    """How long it must last."""
    battery_saved_percent: float = 50.0
    """Below this charge, not charging, a node costs more in plans."""
    battery_weight: float = 1.0
    """How much more at the lowest charge, as a share of its times."""
    heat_weight: float = 1.0
    """How much more when it is hot; it begins at ``heat_margin_c`` below that."""


@dataclass(frozen=True)
class Condition:
    """The state of a node as a plan should know it. ``battery_percent`` None: no battery."""

    battery_percent: float | None = None
    charging: bool = True
    cost_factor: float = 1.0
    """What its times count as."""


class NodeHealth:
    """One start of a node, heartbeat by heartbeat."""

    def __init__(self, limits: HealthLimits, memory_bytes: int) -> None:
        self._limits = limits
        self.memory_bytes = memory_bytes
        """What it may use in all."""
        self._since_s: dict[str, float] = {}
        """By kind of trouble: since when."""
        self._in_force: dict[str, str] = {}
        """Kind of trouble to its reason."""
        self._odd_s = 0.0
        self.oddities: tuple[str, ...] = ()
        """Why it is not believed; empty when it is."""
        self.believed: Heartbeat | None = None
        """The newest heartbeat that made sense."""
        self._believed_s = 0.0
        self.trend = BatteryTrend()

    @property
    def unfit(self) -> str:
        """Why the node should give up its layers, in one line; empty when it need not."""
        return "; ".join(self._in_force.values())

    @property
    def condition(self) -> Condition:
        beat = self.believed
        if beat is None:
            return Condition()
        return Condition(beat.battery_percent, beat.charging is not False, cost_factor(beat, self._limits))

    def heard(self, beat: Heartbeat, now_s: float) -> None:
        """Take in a heartbeat; one that makes no sense changes nothing but ``oddities``."""
        odd = oddities(beat, self.believed, now_s - self._believed_s)
        if odd:
            self.oddities, self._odd_s = odd, now_s
            return
        if self.oddities and now_s - self._odd_s >= TRUST_S:
            self.oddities = ()
        # What a node comes with has lasted.
        begun_s = now_s if self.believed else -math.inf
        self.believed, self._believed_s = beat, now_s
        self.trend.heard(beat, now_s)
        found = troubles(beat, self._limits, self._in_force.keys(), memory_bytes=self.memory_bytes)
        self._since_s = {kind: self._since_s.get(kind, begun_s) for kind in found}
        lasting = (kind for kind, since_s in self._since_s.items() if now_s - since_s >= self._limits.dwell_s)
        self._in_force = {kind: found[kind] for kind in lasting}


def troubles(
    beat: Heartbeat, limits: HealthLimits, known: Collection[str] = (), *, memory_bytes: int
) -> dict[str, str]:
    """Reasons to give up layers by kind. Kinds that are ``known`` last until they are over by the margin.

    ``memory_bytes``: what the node may use in all.
    """
    found: dict[str, str] = {}
    charge, heat = beat.battery_percent, beat.battery_temperature_c
    if charge is not None:
        low = charge <= limits.battery_low_percent and beat.charging is False
        if low or ("battery" in known and charge < limits.battery_low_percent + limits.battery_margin_percent):
            found["battery"] = f"its battery is at {charge:.0f} %, {'charging' if beat.charging else 'not charging'}"
    if heat is not None and heat >= limits.hot_c - ("heat" in known) * limits.heat_margin_c:
        found["heat"] = f"its battery is at {heat:.0f} C"
    if reason := _memory_trouble(beat, limits, memory_bytes, is_known="memory" in known):
        found["memory"] = reason
    return found


def _memory_trouble(beat: Heartbeat, limits: HealthLimits, memory_bytes: int, *, is_known: bool) -> str:
    if not limits.memory_low_bytes:
        return ""
    if beat.available_bytes < limits.memory_low_bytes * (1 + is_known):
        return f"its system has {megabytes(beat.available_bytes)} of memory left"
    stalled = beat.memory_stalled_percent
    if stalled is not None and stalled >= limits.memory_stalled_percent / (1 + is_known):
        return f"all its work waits for memory, {stalled:.0f} % of the time"
    if beat.stages and beat.rss_bytes > memory_bytes * (1.0 if is_known else limits.memory_over_share):
        return f"it takes {megabytes(beat.rss_bytes)} of memory, and may use {megabytes(memory_bytes)}"
    return ""


def cost_factor(beat: Heartbeat, limits: HealthLimits) -> float:
    """What the node's times count as in plans, in tenths, so that a reading that wavers changes no plan."""
    factor = 1.0
    if beat.battery_percent is not None and beat.charging is False:
        factor += limits.battery_weight * _share(
            limits.battery_saved_percent, limits.battery_low_percent, beat.battery_percent
        )
    if beat.battery_temperature_c is not None:
        factor += limits.heat_weight * _share(
            limits.hot_c - limits.heat_margin_c, limits.hot_c, beat.battery_temperature_c
        )
    return round(factor, 1)


def _share(start: float, end: float, value: float) -> float:
    """How far ``value`` is on the way from ``start`` to ``end``, from 0 to 1."""
    if start == end:
        return float(value == end)
    return min(max((value - start) / (end - start), 0.0), 1.0)
