"""How slow nodes are, from what their heartbeats say: noise is told from change, nonsense is not believed (pure).

A reading is the time of a stage's runs over the time that its plan expects of the node at the speed it measured. For
its logarithm x a node's estimate keeps

    fast  += FAST (x - fast)         what the node does now
    noise += NOISE ((x - x before)^2 / 2 - noise)    how much single readings scatter
    level += SLOW (x - level)        what is believed

The level follows slowly, and readings that are far off count as less far, or it would swallow steps. A change is
believed at once, and the level jumps, when `fast` and the readings have stayed away from it, on one side and for
``dwell_s``, by more than a share of ``least_change`` and by more than ``noises`` standard deviations of `fast` itself.
A node that changes back and forth is given a mean level for a while, longer each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.back_off import back_off_s
from schemas.ewma import ewma

MOST_RATIO = 30.0
"""A stage that says it takes so many times what is expected of it, or as little, is not believed."""
FROZEN_READINGS = 10
"""Work was done, but the same figure came so many times, to the last bit."""
FAR = 1.5
"""Standard deviations from the level that a reading counts as at the most."""
TRUST_READINGS = 5
"""Readings in their right mind until a node is believed again."""


@dataclass(frozen=True, kw_only=True)
class ObservationSettings:
    """The weights and limits of an estimate. Weights are per reading, of which there is one a second."""

    fast_weight: float = 0.3
    known_within: float = 0.02
    """The level follows as quickly as noise lets it be known with this standard deviation."""
    slow_weight: float = 0.05
    """But never slower than this,"""
    quick_weight: float = 0.2
    """nor quicker than this."""
    noise_weight: float = 0.05
    first_noise: float = 0.2
    """Standard deviation of a reading before any was seen."""
    least_change: float = 0.15
    noises: float = 4.5
    dwell_s: float = 1.0
    reversal_s: float = 90.0
    """A change back within this time is taken for an oscillation."""
    hold_s: float = 30.0
    """How long an oscillating node has a mean level; twice as long for each further reversal."""
    longest_hold_s: float = 1800.0
    forgive_s: float = 600.0
    """After so long without a reversal there is one less to remember."""


@dataclass(frozen=True)
class Reading:
    """One stage in one heartbeat: time of a run, what is expected of the node as measured, positions ever computed."""

    observed_s: float
    expected_s: float
    positions: int


def nonsense(reading: Reading) -> str:
    """Why a reading can't be true; empty when it can be."""
    seen_s = reading.observed_s
    if not math.isfinite(seen_s) or seen_s < 0:
        return f"says that a run takes {seen_s:g} s"
    if seen_s == 0:
        return "says that its work takes no time"
    ratio = seen_s / reading.expected_s
    if not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        return f"says that a run takes {seen_s * 1e3:.3g} ms where {reading.expected_s * 1e3:.3g} ms are expected"
    return ""


class SpeedEstimate:
    """How slow one node is believed to be. ``level`` is the logarithm of its times over those it measured."""

    def __init__(self, settings: ObservationSettings, slowness: float = 1.0) -> None:
        self._settings = settings
        self.level = self._fast = math.log(slowness)
        self._variance = settings.first_noise**2
        self._x: float | None = None
        """Before."""
        self._away_since_s: float | None = None
        self._away_up = False
        self._away: list[float] = []
        """Readings since then."""
        self._jumped_s = -math.inf
        self._jumped_up = False
        self._reversals = 0
        self._held_until_s = -math.inf
        self.doubt = ""
        """Why its numbers are not believed; empty when they are."""
        self._sane = 0
        self._last: Reading | None = None
        self._repeats = 0

    @property
    def slowness(self) -> float:
        """The node's times over those it measured, as believed."""
        return math.exp(self.level)

    @property
    def uncertainty(self) -> float:
        """Standard deviation of ``level`` while the node does not change."""
        weight = self._weight
        return math.sqrt(self._variance * weight / (2 - weight))

    @property
    def _weight(self) -> float:
        """The weight of a new reading in the level."""
        given, wanted = self._settings, self._settings.known_within**2
        return min(max(2 * wanted / (self._variance + wanted), given.slow_weight), given.quick_weight)

    def is_held(self, now_s: float) -> bool:
        """Has the node been given a mean level, because it oscillates?"""
        return now_s < self._held_until_s

    def see(self, reading: Reading, now_s: float) -> bool:
        """Take in a reading; says whether a change of the node's speed is believed since."""
        last, self._last = self._last, reading
        if last and reading.positions == last.positions:
            return False  # nothing was computed: the figure is an old one
        if reading.expected_s <= 0 or not self._makes_sense(reading, last):
            return False
        return self._take(math.log(reading.observed_s / reading.expected_s), now_s)

    def forget_readings(self) -> None:
        """Forget the readings, because the node's stage is another one; what is believed of its speed stays."""
        self._last, self._repeats = None, 0
        self._away_since_s, self._fast, self._x = None, self.level, None

    def _makes_sense(self, reading: Reading, last: Reading | None) -> bool:
        why = nonsense(reading)
        same = last is not None and reading.observed_s == last.observed_s
        self._repeats = self._repeats + 1 if same else 1
        if not why and self._repeats >= FROZEN_READINGS:
            why = f"has said {reading.observed_s * 1e3:.6g} ms {self._repeats} times while it worked"
        if why:
            self.doubt, self._sane, self._away_since_s = why, 0, None
            return False
        self._sane += 1
        if self._sane >= TRUST_READINGS:
            self.doubt = ""
        return not self.doubt

    def _take(self, x: float, now_s: float) -> bool:
        given = self._settings
        if self._x is not None:
            # Three standard deviations at the most, or a step would hide behind its own noise.
            scatter = min((x - self._x) ** 2 / 2, 9 * self._variance)
            self._variance = ewma(self._variance, scatter, given.noise_weight)
        self._x = x
        self._fast = ewma(self._fast, x, given.fast_weight)
        if self.is_held(now_s):
            self.level = ewma(self.level, x, min(self._weight, 1 / self._hold_length_s()))
            return False
        gap = self._fast - self.level
        spread = math.sqrt(self._variance * given.fast_weight / (2 - given.fast_weight))
        band = max(math.log1p(given.least_change), given.noises * spread)
        # An outlier pulls `fast` away, but the readings after it are back.
        if abs(gap) <= band or (x - self.level) * math.copysign(1.0, gap) < band / 2:
            self._away_since_s = None
            farthest = FAR * math.sqrt(self._variance)
            self.level += self._weight * min(max(x - self.level, -farthest), farthest)
            return False
        if self._away_since_s is None or self._away_up is not (gap > 0):
            self._away_since_s, self._away_up, self._away = now_s, gap > 0, []
        self._away.append(x)
        if now_s - self._away_since_s < given.dwell_s:
            return False
        self._jump(sum(self._away) / len(self._away), now_s)
        return True

    def _jump(self, level: float, now_s: float) -> None:
        given, up = self._settings, level > self.level
        if now_s - self._jumped_s > given.forgive_s:
            self._reversals = max(0, self._reversals - 1)
        reverses = up is not self._jumped_up and now_s - self._jumped_s < given.reversal_s
        # A device that has been held for oscillating has jumped away from its mean: where to says nothing.
        if reverses or self._reversals:
            self._reversals += 1
            level = (level + self.level) / 2
            self._held_until_s = now_s + self._hold_length_s()
        self.level = self._fast = level
        self._jumped_s, self._jumped_up, self._away_since_s = now_s, up, None

    def _hold_length_s(self) -> float:
        return back_off_s(self._settings.hold_s, self._reversals, self._settings.longest_hold_s)
