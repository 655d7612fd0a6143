"""Who should be spared, who costs more, and whose numbers make no sense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.fleet.changes import Drained, Flagged, Grown, Joined, Restored, Trusted
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.health import TRUST_S, Condition, HealthLimits, NodeHealth, cost_factor, troubles
from orchestrator.fleet.plausibility import oddities
from schemas.messages import Epoch, Heartbeat, NodeStatus, StageMetrics
from tests.support.scripted_nodes import MB, make_birth, make_heartbeat

LIMITS = HealthLimits()
MEMORY_BYTES = 200 * MB
EPOCH = Epoch(generation=1, counter=1)


def beat(uptime_s: float = 1.0, **changes: Any) -> Heartbeat:
    return replace(make_heartbeat("a"), uptime_s=uptime_s, **changes)


def stage(busy_s: float, positions: int = 10) -> StageMetrics:
    return StageMetrics(pipeline="main", epoch=EPOCH, stage=0, busy_s=busy_s, positions=positions)


HOLDS = (stage(0.0),)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, ()),
        ({"battery_percent": 15, "charging": False}, ("battery",)),
        ({"battery_percent": 16, "charging": False}, ()),
        ({"battery_percent": 3, "charging": True}, ()),
        ({"battery_percent": 3}, ()),
        ({"battery_temperature_c": 45.0}, ("heat",)),
        ({"battery_temperature_c": 44.9, "temperature_c": 80.0}, ()),
        ({"available_bytes": 40 * MB}, ("memory",)),
        ({"memory_stalled_percent": 20.0}, ("memory",)),
        ({"memory_stalled_percent": 19.0}, ()),
        ({"rss_bytes": 221 * MB, "stages": HOLDS}, ("memory",)),
        ({"rss_bytes": 220 * MB, "stages": HOLDS}, ()),
        ({"rss_bytes": 221 * MB}, ()),
        ({"available_bytes": 0, "battery_percent": 1, "charging": False}, ("battery", "memory")),
    ],
)
def test_what_is_trouble(changes: dict[str, Any], kinds: tuple[str, ...]) -> None:
    assert tuple(troubles(beat(**changes), LIMITS, memory_bytes=MEMORY_BYTES)) == kinds


@pytest.mark.parametrize(
    ("kind", "changes", "lasts"),
    [
        ("battery", {"battery_percent": 24, "charging": True}, True),
        ("battery", {"battery_percent": 25, "charging": True}, False),
        ("heat", {"battery_temperature_c": 40.0}, True),
        ("heat", {"battery_temperature_c": 39.9}, False),
        ("memory", {"available_bytes": 90_000_000}, True),
        ("memory", {"available_bytes": 100_000_000}, False),
        ("memory", {"memory_stalled_percent": 10.0}, True),
        ("memory", {"memory_stalled_percent": 9.9}, False),
        ("memory", {"rss_bytes": 201 * MB, "stages": HOLDS}, True),
        ("memory", {"rss_bytes": 200 * MB, "stages": HOLDS}, False),
    ],
)
def test_trouble_is_over_by_a_margin(kind: str, changes: dict[str, Any], lasts: bool) -> None:
    assert (kind in troubles(beat(**changes), LIMITS, {kind}, memory_bytes=MEMORY_BYTES)) is lasts


def test_zero_switches_a_rule_off() -> None:
    off = HealthLimits(battery_low_percent=0, memory_low_bytes=0)
    assert not troubles(beat(battery_percent=1, charging=False, available_bytes=0), off, memory_bytes=1)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 1.0),
        ({"battery_percent": 50, "charging": False}, 1.0),
        ({"battery_percent": 15, "charging": False}, 2.0),
        ({"battery_percent": 32.5, "charging": False}, 1.5),
        ({"battery_percent": 15, "charging": True}, 1.0),
        ({"battery_temperature_c": 42.5}, 1.5),
        ({"battery_percent": 0, "charging": False, "battery_temperature_c": 60.0}, 3.0),
    ],
)
def test_what_a_node_costs(changes: dict[str, Any], factor: float) -> None:
    assert cost_factor(beat(**changes), LIMITS) == factor


def test_a_moments_trouble_is_none() -> None:
    health = NodeHealth(LIMITS, MEMORY_BYTES)
    hot = {"battery_temperature_c": 50.0}
    health.heard(beat(0), 0.0)
    health.heard(beat(1, **hot), 1.0)
    health.heard(beat(2), 2.0)
    for second in (3, 4, 5):
        health.heard(beat(second, **hot), float(second))
        assert not health.unfit
    health.heard(beat(6, **hot), 6.0)
    assert health.unfit == "its battery is at 50 C"
    assert health.condition.cost_factor == 2.0
    health.heard(beat(7, battery_temperature_c=41.0), 7.0)
    assert health.unfit
    health.heard(beat(8, battery_temperature_c=39.0), 8.0)
    assert not health.unfit


def test_what_a_node_comes_with_is_no_moments_trouble() -> None:
    health = NodeHealth(LIMITS, MEMORY_BYTES)
    health.heard(beat(battery_percent=12, charging=False), 1.0)
    assert health.unfit == "its battery is at 12 %, not charging"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"uptime_s": 5.0}, "clock went back by 5.0 s"),
        ({"uptime_s": 5000.0}, "clock went forward"),
        ({"rss_bytes": 0}, "memory is 0 bytes"),
        ({"rss_bytes": 2 * MB}, "at the most"),
        ({"available_bytes": 2**50}, "TB of memory"),
        ({"cpu_percent": 1e5 + 2500}, "of a core"),
        ({"temperature_c": 250.0}, "it is at 250 C"),
        ({"battery_temperature_c": -60.0}, "it is at -60 C"),
        ({"frames_dropped": 4}, "frames_dropped fell"),
        ({"battery_percent": 100.0}, "from 70 to 100 %"),
        ({"stages": (stage(5.0),)}, "computed less than before"),
        ({"stages": (stage(10.0, 9),)}, "computed less than before"),
        ({"stages": (stage(14.0),)}, "computed 4.0 s in 1.0 s"),
    ],
)
def test_numbers_that_make_no_sense(changes: dict[str, Any], word: str) -> None:
    before = beat(10.0, battery_percent=70.0, frames_dropped=5, stages=(stage(10.0),))
    now = replace(before, **{"uptime_s": 11.0, **changes})
    assert word in "; ".join(oddities(now, before, 1.0))


def test_numbers_that_do() -> None:
    before = beat(10.0, battery_percent=80.0, stages=(stage(10.0),))
    assert not oddities(before, None, 0.0)
    assert not oddities(replace(before, uptime_s=11.0, stages=(stage(11.0, 30),)), before, 0.1)
    assert not oddities(replace(before, uptime_s=11.0, battery_percent=5.0), before, 1.0)
    assert not oddities(replace(before, uptime_s=900.0, battery_percent=120.0), before, 890.0)
    other = replace(stage(0.0, 0), epoch=Epoch(generation=1, counter=2))
    assert not oddities(replace(before, uptime_s=11.0, stages=(other,)), before, 1.0)


def test_a_nonsense_heartbeat_changes_nothing_else() -> None:
    health = NodeHealth(LIMITS, MEMORY_BYTES)
    health.heard(beat(10, battery_percent=80, charging=False), 10.0)
    health.heard(beat(9, battery_percent=79, charging=False), 11.0)
    assert health.oddities
    assert health.condition == Condition(80, charging=False)
    health.heard(beat(12, battery_percent=79, charging=False), 12.0)
    assert health.oddities, "not believed at once"
    assert health.condition.battery_percent == 79
    health.heard(beat(13 + TRUST_S), 11.0 + TRUST_S)
    assert not health.oddities


# --- the fleet --------------------------------------------------------------------------------------------------


def fleet() -> FleetState:
    fleet = FleetState(limits=HealthLimits(dwell_s=0.0))
    assert fleet.apply("a", make_birth("a"), 0.0) == [Joined(make_birth("a"))]
    return fleet


def test_a_leaving_node_stays_usable_but_is_not_planned_with() -> None:
    nodes = fleet()
    status = NodeStatus(node="a", incarnation=1, online=True, leaving=True, reason="asked to stop")
    reason = "it is leaving: asked to stop"
    assert nodes.apply("a", status, 1.0) == [Drained("a", reason)]
    assert nodes.apply("a", status, 1.0) == []
    assert [birth.node for birth in nodes.usable()] == ["a"]
    assert nodes.plannable() == ()
    assert (nodes.view(1.0)[0].state, nodes.view(1.0)[0].drained) == ("online", reason)
    again = make_birth("a", incarnation=2)
    assert nodes.apply("a", again, 2.0)[-1] == Joined(again)
    assert nodes.plannable() == (again,)


def test_an_operator_drains_and_undoes_it() -> None:
    nodes = fleet()
    assert nodes.set_drained("a", True) == [Drained("a", "an operator drains it")]
    assert nodes.set_drained("a", True) == []
    assert nodes.plannable() == ()
    nodes.apply("a", make_birth("a", incarnation=2), 1.0)
    assert nodes.plannable() == (), "another start changes nothing"
    assert nodes.set_drained("a", False) == [Restored("a")]
    assert nodes.plannable()


def test_two_reasons_end_one_by_one() -> None:
    nodes = fleet()
    assert nodes.apply("a", beat(1, battery_percent=10, charging=False), 1.0) == [
        Drained("a", "its battery is at 10 %, not charging")
    ]
    assert nodes.set_drained("a", True) == []
    assert nodes.why_drained("a") == "an operator drains it; its battery is at 10 %, not charging"
    assert nodes.apply("a", beat(500, battery_percent=60, charging=True), 500.0) == []
    assert nodes.set_drained("a", False) == [Restored("a")]


def test_flags_come_and_go() -> None:
    nodes = fleet()
    nodes.apply("a", beat(10), 1.0)
    assert nodes.apply("a", beat(3), 2.0) == [Flagged("a", "its clock went back by 7.0 s")]
    assert nodes.view(2.0)[0].flags == ("its clock went back by 7.0 s",)
    assert not nodes.is_believed("a")
    assert nodes.apply("a", beat(4), 3.0) == []
    assert nodes.apply("a", beat(20), 3.0 + TRUST_S) == [Trusted("a")]
    assert nodes.is_believed("a")


def test_a_node_that_may_use_more_by_now_is_planned_with_again() -> None:
    state, birth = fleet(), make_birth("a")
    less = replace(birth, memory_bytes=birth.memory_bytes - 200_000_000)
    assert state.apply("a", less, 1.0) == []
    assert state.usable() == (less,)
    assert state.apply("a", birth, 2.0) == [Grown("a", "200 MB")]
    assert state.apply("a", birth, 3.0) == []


def test_with_less_that_it_may_use_a_node_takes_too_much() -> None:
    state, birth = fleet(), make_birth("a")
    resident_bytes = birth.memory_bytes
    holds = beat(rss_bytes=resident_bytes, peak_rss_bytes=resident_bytes, stages=HOLDS)
    assert state.apply("a", holds, 1.0) == []
    state.apply("a", replace(birth, memory_bytes=100_000_000), 2.0)
    (change,) = state.apply("a", replace(holds, uptime_s=3.0), 3.0)
    assert isinstance(change, Drained)
    assert change.reason.endswith("MB of memory, and may use 100 MB")
    assert state.apply("a", replace(holds, uptime_s=4.0, stages=()), 4.0) == [Restored("a")]
