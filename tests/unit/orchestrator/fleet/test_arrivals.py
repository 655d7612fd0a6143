"""Nodes that can't all be real: those that are here lose nothing, and who is real is let in later."""

import pytest

from orchestrator.fleet.arrivals import MOST_NODES, NEW_NODES, STARTS
from orchestrator.fleet.changes import Crowded, Joined, Tell
from orchestrator.fleet.fleet import FleetState
from schemas.messages import RefuseNode, RegisterAgain
from tests.support.scripted_nodes import make_birth, make_heartbeat


def crowd(fleet: FleetState, count: int, now_s: float, *, retained: bool = False) -> list[object]:
    births = (make_birth(f"made-up-{number}", memory_mb=1) for number in range(count))
    return [change for birth in births for change in fleet.apply(birth.node, birth, now_s, retained=retained)]


def test_a_thousand_false_births_leave_the_real_node_and_let_a_new_one_in_later() -> None:
    fleet = FleetState()
    fleet.apply("real", make_birth("real"), 0.0)
    changes = crowd(fleet, 1000, 1.0)
    assert sum(isinstance(change, Joined) for change in changes) == NEW_NODES.burst
    assert [type(change) for change in changes if not isinstance(change, Joined)] == [Crowded]
    assert fleet.is_usable("real", 1)
    late, birth = make_heartbeat("late"), make_birth("late")
    assert fleet.apply("late", late, 1.0) == []
    assert fleet.apply("late", birth, 1.0) == []
    (told,) = fleet.apply("late", late, 2.0)
    assert isinstance(told, Tell)
    assert isinstance(told.command, RegisterAgain)
    assert fleet.apply("late", birth, 2.0) == [Joined(birth)]


def test_that_some_are_kept_out_is_said_once_a_minute() -> None:
    fleet = FleetState()
    said = [isinstance(change, Crowded) for at_s in (0.0, 30.0, 61.0) for change in crowd(fleet, 900, at_s)]
    assert sum(said) == 2


def test_who_starts_again_and_again_is_heard_less_often_and_keeps_its_place() -> None:
    fleet = FleetState()
    for start in range(1, 1000):
        fleet.apply("a", make_birth("a", incarnation=start), 0.0)
    assert fleet.is_usable("a", 1 + STARTS.burst)
    later_s = 1 / STARTS.per_s
    (told,) = fleet.apply("a", make_heartbeat("a", 999), later_s)
    assert isinstance(told, Tell)
    fleet.apply("a", make_birth("a", incarnation=999), later_s)
    assert fleet.is_usable("a", 999)


@pytest.mark.parametrize("in_use", [False, True])
def test_what_is_stored_fills_the_fleet_and_gives_way_to_who_is_here(in_use: bool) -> None:
    fleet = FleetState()
    if in_use:
        fleet.arrivals.in_use = lambda: frozenset(["made-up-0"])
    crowd(fleet, 10_000, 0.0, retained=True)
    assert len(fleet.nodes) == MOST_NODES
    birth = make_birth("real")
    assert fleet.apply("real", birth, 1.0) == [Joined(birth)]
    assert len(fleet.nodes) == MOST_NODES
    assert ("made-up-0" in fleet.nodes) is in_use


def test_those_that_are_here_give_way_to_nobody() -> None:
    fleet = FleetState()
    for number in range(MOST_NODES):
        fleet.apply(f"n{number}", make_birth(f"n{number}", memory_mb=1), float(number))
    last_s = float(MOST_NODES)
    assert len(fleet.usable()) == MOST_NODES
    (said,) = fleet.apply("one-more", make_birth("one-more"), last_s)
    assert isinstance(said, Crowded)
    assert str(MOST_NODES) in said.reason
    assert "one-more" not in fleet.nodes


def test_a_node_that_can_be_told_nothing_shortens_nobodys_messages() -> None:
    fleet = FleetState()
    fleet.apply("real", make_birth("real"), 0.0)
    before = fleet.max_message_bytes()
    (told,) = fleet.apply("false", make_birth("false", max_message_bytes=100), 0.0)
    assert isinstance(told, Tell)
    assert isinstance(told.command, RefuseNode)
    assert "100 bytes at most" in told.command.reason
    fleet.apply("later", make_birth("later"), 0.0)
    fleet.apply("later", make_birth("later", max_message_bytes=0), 0.0)
    assert fleet.max_message_bytes() == before
