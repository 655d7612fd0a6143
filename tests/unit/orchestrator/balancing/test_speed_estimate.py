"""What is believed of a node's speed: noise moves nothing, changes count at once, nonsense never."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.balancing.speed_estimate import (
    FROZEN_READINGS,
    TRUST_READINGS,
    ObservationSettings,
    Reading,
    SpeedEstimate,
    nonsense,
)

SETTINGS = ObservationSettings()


def told(
    ratios: Iterable[float], estimate: SpeedEstimate | None = None, begin: int = 0
) -> tuple[SpeedEstimate, list[int]]:
    """An estimate after one reading a second, and when changes were believed."""
    estimate = estimate or SpeedEstimate(SETTINGS)
    jumps = [
        second
        for second, ratio in enumerate(ratios, begin)
        if estimate.see(Reading(0.01 * ratio, 0.01, second + 1), float(second))
    ]
    return estimate, jumps


def noisy(seed: int, seconds: int, noise: float = 0.2, ratio: float = 1.0) -> list[float]:
    draw = random.Random(seed)
    return [ratio * draw.lognormvariate(0.0, noise) for _ in range(seconds)]


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_change_and_leaves_the_level(seed: int) -> None:
    estimate, jumps = told(noisy(seed, 600))
    assert jumps == []
    assert estimate.slowness == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("ratio", [2.0, 0.5, 3.3])
def test_a_step_is_believed_within_five_seconds(seed: int, ratio: float) -> None:
    readings = noisy(seed, 60, 0.1) + noisy(seed + 100, 60, 0.1, ratio)
    estimate, jumps = told(readings)
    assert 61 <= jumps[0] <= 65
    assert len(jumps) == 1
    assert estimate.slowness == pytest.approx(ratio, rel=0.15)


def test_one_outlier_is_no_change() -> None:
    _, jumps = told([*noisy(1, 30, 0.05), 4.0, *noisy(2, 30, 0.05)])
    assert jumps == []


def test_a_small_change_is_followed_slowly() -> None:
    estimate, jumps = told([1.0 + 1e-6 * k for k in range(30)] + [1.1 + 1e-6 * k for k in range(100)])
    assert jumps == []
    assert estimate.slowness == pytest.approx(1.1, rel=0.01)


def test_a_node_that_goes_back_and_forth_is_held_at_its_mean_ever_longer() -> None:
    draw = random.Random(3)
    readings = [(2.0 if second // 30 % 2 else 1.0) * draw.lognormvariate(0, 0.05) for second in range(3600)]
    estimate, jumps = told(readings)
    assert 1.1 < estimate.slowness < 1.85
    gaps = [later - earlier for earlier, later in itertools.pairwise(jumps)]
    assert gaps == sorted(gaps)
    assert len(jumps) <= 8


@pytest.mark.parametrize(
    ("observed_s", "said"),
    [
        (math.nan, "says that a run takes nan s"),
        (math.inf, "says that a run takes inf s"),
        (-0.01, "says that a run takes -0.01 s"),
        (0.0, "says that its work takes no time"),
        (10.0, "says that a run takes 1e+04 ms where 10 ms are expected"),
        (1e-5, "says that a run takes 0.01 ms where 10 ms are expected"),
        (0.02, ""),
    ],
)
def test_nonsense_has_a_reason(observed_s: float, said: str) -> None:
    assert nonsense(Reading(observed_s, 0.01, 1)) == said


def test_what_makes_no_sense_is_flagged_and_not_believed_until_it_has_made_sense_for_a_while() -> None:
    estimate, _ = told(noisy(1, 20, 0.05))
    level = estimate.level
    told([1000.0], estimate, 20)
    assert estimate.doubt == "says that a run takes 1e+04 ms where 10 ms are expected"
    told([1.5 + 0.001 * k for k in range(TRUST_READINGS - 1)], estimate, 21)
    assert estimate.doubt
    assert estimate.level == level
    told([1.6], estimate, 30)
    assert not estimate.doubt
    assert estimate.level != level


def test_a_frozen_figure_is_flagged_but_an_idle_node_is_not() -> None:
    estimate, _ = told([1.25] * (FROZEN_READINGS - 1))
    assert not estimate.doubt
    told([1.25], estimate, FROZEN_READINGS)
    assert estimate.doubt == f"has said 12.5 ms {FROZEN_READINGS} times while it worked"
    idle = SpeedEstimate(SETTINGS)
    for second in range(100):
        assert not idle.see(Reading(0.0125, 0.01, 7), float(second))
    assert not idle.doubt


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60))
def test_whatever_comes_the_belief_stays_finite_and_possible(figures: list[float]) -> None:
    estimate = SpeedEstimate(SETTINGS)
    for second, figure in enumerate(figures):
        estimate.see(Reading(figure, 0.01, second + 1), float(second))
        assert 1 / 31 < estimate.slowness < 31
        assert math.isfinite(estimate.uncertainty)


@given(st.lists(st.floats(0.2, 5.0), max_size=60))
def test_the_same_readings_give_the_same_beliefs(ratios: list[float]) -> None:
    one, other = told(ratios), told(ratios)
    assert one[1] == other[1]
    assert one[0].level == other[0].level
