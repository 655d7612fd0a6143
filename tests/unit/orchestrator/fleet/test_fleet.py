"""Who is there: births, wills, heartbeats, ghosts and versions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.fleet.changes import Joined, Left, Tell
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.silence import SilenceLimits
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.messages import Heartbeat, NodeBirth, NodeStatus, RefuseNode, RegisterAgain
from tests.support.scripted_nodes import make_birth, make_heartbeat


def status(incarnation: int, *, online: bool) -> NodeStatus:
    return NodeStatus(node="a", incarnation=incarnation, online=online, reason="" if online else "connection lost")


def fleet_with(incarnation: int = 5) -> FleetState:
    fleet = FleetState(silence=SilenceLimits(10.0))
    fleet.apply("a", make_birth("a", incarnation=incarnation), 0.0)
    return fleet


def test_a_live_birth_joins_once() -> None:
    fleet = FleetState()
    birth = make_birth("a")
    assert fleet.apply("a", birth, 0.0) == [Joined(birth)]
    assert fleet.apply("a", status(1, online=True), 0.0) == []
    assert fleet.apply("a", birth, 1.0) == []
    assert fleet.usable() == (birth,)


def test_a_retained_birth_alone_may_be_a_ghost() -> None:
    fleet = FleetState()
    birth = make_birth("a")
    (asked,) = fleet.apply("a", birth, 0.0, retained=True)
    assert isinstance(asked, Tell)
    assert isinstance(asked.command, RegisterAgain)
    assert fleet.apply("a", status(1, online=True), 0.0, retained=True) == []
    assert fleet.usable() == ()
    assert fleet.view(0.0)[0].state == "silent"
    assert fleet.apply("a", make_heartbeat("a"), 0.5) == [Joined(birth)]


def test_retained_status_before_retained_birth_still_counts_after_a_heartbeat() -> None:
    fleet = FleetState()
    assert fleet.apply("a", status(1, online=True), 0.0, retained=True) == []
    fleet.apply("a", make_birth("a"), 0.0, retained=True)
    fleet.apply("a", make_heartbeat("a"), 0.5)
    assert fleet.is_usable("a", 1)


def test_the_will_of_this_start_takes_the_node_away() -> None:
    fleet = fleet_with(5)
    assert fleet.apply("a", status(5, online=False), 1.0) == [Left("a", "connection lost")]
    assert fleet.usable() == ()
    assert fleet.view(1.0)[0].state == "offline"


def test_the_late_will_of_an_earlier_start_kills_nobody() -> None:
    fleet = fleet_with(5)
    assert fleet.apply("a", status(4, online=False), 1.0) == []
    assert fleet.is_usable("a", 5)


def test_a_new_start_leaves_and_joins() -> None:
    fleet = fleet_with(5)
    birth = make_birth("a", incarnation=6)
    assert fleet.apply("a", birth, 1.0) == [Left("a", "it started again"), Joined(birth)]
    assert not fleet.is_usable("a", 5)


def test_a_heartbeat_after_the_will_brings_the_node_back() -> None:
    fleet = fleet_with(5)
    fleet.apply("a", status(5, online=False), 1.0)
    assert fleet.apply("a", make_heartbeat("a", 5), 2.0) == [Joined(make_birth("a", incarnation=5))]


def test_an_unknown_heartbeat_is_asked_to_register() -> None:
    (tell,) = FleetState().apply("a", make_heartbeat("a"), 0.0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.command, RegisterAgain)


def test_a_heartbeat_of_a_start_that_is_not_known_yet_is_asked_to_register() -> None:
    (tell,) = fleet_with(5).apply("a", make_heartbeat("a", 6), 0.0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.command, RegisterAgain)


def test_of_two_nodes_with_one_name_the_elder_is_refused() -> None:
    fleet = fleet_with(4)
    fleet.apply("a", make_birth("a", incarnation=5), 0.5)
    (tell,) = fleet.apply("a", make_heartbeat("a", 4), 1.0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.command, RefuseNode)
    assert tell.command.incarnation == 4
    assert "--name" in tell.command.reason
    assert fleet.is_usable("a", 5)


def test_the_elder_may_not_come_back_while_the_younger_is_here() -> None:
    fleet = fleet_with(4)
    fleet.apply("a", make_birth("a", incarnation=5), 0.5)
    online = status(4, online=True)
    for message in (make_birth("a", incarnation=4), online, make_heartbeat("a", 4)):
        (tell,) = fleet.apply("a", message, 1.0)
        assert isinstance(tell, Tell)
        assert tell.command == RefuseNode(incarnation=4, reason=tell.command.reason)
    assert fleet.is_usable("a", 5)
    fleet.apply("a", status(5, online=False), 2.0)
    (tell,) = fleet.apply("a", make_heartbeat("a", 4), 3.0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.command, RegisterAgain)
    birth = make_birth("a", incarnation=4)
    assert fleet.apply("a", birth, 3.5) == [Joined(birth)], "nobody else has the name now"


@pytest.mark.parametrize("gone_by", ["will", "silence"])
def test_a_start_with_a_smaller_number_takes_the_place_of_one_that_is_gone(gone_by: str) -> None:
    """Incarnations may come from a clock that was set back."""
    fleet = fleet_with(2_000)
    if gone_by == "will":
        fleet.apply("a", status(2_000, online=False), 5.0)
    else:
        fleet.expire(10.0)
    birth = make_birth("a", incarnation=1_000)
    assert fleet.apply("a", birth, 60.0) == [Joined(birth)]
    assert fleet.apply("a", make_heartbeat("a", 1_000), 61.0) == []
    assert fleet.apply("a", status(2_000, online=False), 62.0) == [], "its will comes late"
    assert fleet.is_usable("a", 1_000)


def test_a_stored_birth_of_another_start_does_not_replace_one_that_is_heard() -> None:
    fleet = fleet_with(5)
    assert fleet.apply("a", make_birth("a", incarnation=9), 1.0, retained=True) == []
    assert fleet.is_usable("a", 5)
    fleet.apply("a", status(5, online=False), 2.0)
    fleet.apply("a", make_birth("a", incarnation=9), 3.0, retained=True)
    assert fleet.apply("a", make_heartbeat("a", 9), 4.0) == [Joined(make_birth("a", incarnation=9))]


class LiveNode:
    """Registers when it is told to, until it is refused."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.refused = False

    def react(self, command: RegisterAgain | RefuseNode) -> list[NodeBirth | NodeStatus]:
        if isinstance(command, RefuseNode):
            self.refused |= command.incarnation == self.incarnation
        if self.refused or isinstance(command, RefuseNode):
            return []
        return [make_birth("a", incarnation=self.incarnation), status(self.incarnation, online=True)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_of_two_live_nodes_with_one_name_exactly_one_stays(data: st.DataObject) -> None:
    """An orchestrator that starts meets both, in whatever order their messages come; commands reach both."""
    nodes = [LiveNode(number) for number in data.draw(st.permutations([3, 8]))]
    fleet = FleetState()
    fleet.apply("a", make_birth("a", incarnation=nodes[0].incarnation), 0.0, retained=True)
    waiting: list[NodeBirth | NodeStatus | Heartbeat] = []
    for step in range(40):
        heard = [make_heartbeat("a", node.incarnation) for node in nodes if not node.refused]
        waiting += data.draw(st.permutations(heard))
        for _ in range(data.draw(st.integers(1, 4)) if step < 20 else len(waiting)):
            if not waiting:
                break
            for change in fleet.apply("a", waiting.pop(0), float(step)):
                if isinstance(change, Tell):
                    waiting += [answer for node in nodes for answer in node.react(change.command)]
    (left,) = [node for node in nodes if not node.refused]
    assert fleet.is_usable("a", left.incarnation)


def test_another_version_of_the_same_protocol_takes_part() -> None:
    fleet = FleetState()
    birth = make_birth("a", package_version="0.0.1")
    assert fleet.apply("a", birth, 0.0) == [Joined(birth)]
    assert fleet.usable() == (birth,)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        (PROTOCOL_VERSION - 1, f"on the node run pip install --upgrade 'linguabus[edge]=={PACKAGE_VERSION}'"),
        (PROTOCOL_VERSION + 1, "on the fleet's host run pip install --upgrade 'linguabus[orchestrator]==7.0'"),
    ],
)
def test_another_protocol_is_refused_with_the_line_that_helps(protocol: int, said: str) -> None:
    fleet = FleetState()
    (tell,) = fleet.apply("a", make_birth("a", protocol=protocol, package_version="7.0"), 0.0)
    assert isinstance(tell, Tell)
    assert isinstance(tell.command, RefuseNode)
    assert tell.command.reason.endswith(said)
    assert "\n" not in tell.command.reason
    assert fleet.usable() == ()
    assert fleet.view(0.0)[0].state == "refused"
    (again,) = fleet.apply("a", make_heartbeat("a"), 1.0)
    assert isinstance(again, Tell)


def test_silence_takes_a_node_away_after_the_timeout() -> None:
    fleet = fleet_with()
    assert fleet.next_expiry_s() == 10.0
    assert fleet.expire(9.9) == []
    assert fleet.expire(10.0) == [Left("a", "no heartbeat for 10 s")]
    assert fleet.next_expiry_s() == math.inf


def test_our_own_absence_is_not_the_nodes_silence() -> None:
    fleet = fleet_with()
    fleet.hold_clock(100.0)
    assert fleet.expire(105.0) == []


def test_a_node_speaks_only_for_itself() -> None:
    fleet = FleetState()
    assert fleet.apply("b", make_birth("a"), 0.0) == []
    assert fleet.nodes == {}


def test_the_view_has_ages_and_figures() -> None:
    fleet = fleet_with()
    fleet.apply("a", make_heartbeat("a", 5), 1.0)
    (row,) = fleet.view(3.5)
    assert row.state == "online"
    assert row.heard_s_ago == 2.5
    assert row.uptime_s == 1
    assert row.hop_ms == 0.3
