"""How long a node may be silent: one that is needed for a moment, one to which nothing happens for longer."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.fleet.changes import FleetChange, Left, Tell
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.silence import GAPS, MISSED, SilenceLimits
from schemas.messages import RegisterAgain
from tests.support.scripted_nodes import make_birth, make_heartbeat

LIMITS = SilenceLimits(usual_s=10.0, quick_s=1.5)
SELDOM_S = 5.0


def fleet_of(*names: str, at_s: float = 0.0) -> FleetState:
    fleet = FleetState(silence=LIMITS)
    for name in names:
        fleet.apply(name, make_birth(name), at_s)
    return fleet


def beat(fleet: FleetState, name: str, at_s: float, next_s: float = SELDOM_S) -> None:
    fleet.apply(name, replace(make_heartbeat(name), next_s=next_s), at_s)


def left(changes: list[FleetChange]) -> list[str]:
    return [change.node for change in changes if isinstance(change, Left)]


def test_a_quiet_node_is_lost_when_it_has_missed_two_heartbeats() -> None:
    fleet = fleet_of("a", "b")
    beat(fleet, "a", 100.0)
    assert fleet.expires_s("a") == 100.0 + MISSED * SELDOM_S
    beat(fleet, "a", 101.0, next_s=1.0)
    assert fleet.expires_s("a") == 111.0


def test_a_quiet_node_that_is_needed_is_missed_as_soon_as_any_other() -> None:
    """It says that it is there when the request reaches it. How seldom it spoke before counts nothing."""
    fleet = fleet_of("a", "b")
    for at_s in range(0, 60, 5):
        beat(fleet, "a", float(at_s))
        beat(fleet, "b", float(at_s))
    fleet.need(frozenset("ab"), 57.0)
    beat(fleet, "b", 57.1, next_s=0.5)
    assert fleet.expires_s("a") == 57.0 + LIMITS.quick_s
    beat(fleet, "b", 58.4, next_s=0.5)
    assert left(fleet.expire(58.5)) == ["a"]


def test_a_node_that_is_needed_and_says_that_it_is_quiet_is_believed() -> None:
    """Its request may wait elsewhere."""
    fleet = fleet_of("a", "b")
    fleet.need(frozenset("a"), 50.0)
    beat(fleet, "a", 51.0)
    assert fleet.expires_s("a") == 51.0 + GAPS * SELDOM_S


def test_quiet_nodes_are_asked_whether_it_is_the_broker_that_is_silent() -> None:
    fleet = fleet_of("a", "b", at_s=99.5)
    beat(fleet, "a", 100.0, next_s=0.5)
    beat(fleet, "b", 100.0)
    fleet.need(frozenset("a"), 100.0)
    (asked,) = fleet.expire(101.5)
    assert asked == Tell("b", RegisterAgain(reason="another node is silent"))
    assert fleet.expire(101.75) == [], "once is enough"
    fleet.apply("b", make_birth("b"), 101.8)
    assert left(fleet.expire(102.0)) == ["a"]
