"""How a pipeline stands with its nodes: every transition that there is, and none besides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.silence import SilenceLimits
from orchestrator.pipelines.allocation_state import AllocationState, IllegalTransition, NodeAllocation
from orchestrator.pipelines.pipeline_nodes import PipelineNodes
from tests.support.scripted_nodes import make_birth

AB, ABC, C = frozenset("ab"), frozenset("abc"), frozenset("c")
UNDIVIDED, RESTING, AWAITING, WORKING, RESTARTING, GIVING_BACK = AllocationState


def given(*steps: Callable[[NodeAllocation], object], resting: bool = False) -> NodeAllocation:
    allocation = NodeAllocation(resting=resting)
    for step in steps:
        step(allocation)
    return allocation


def in_state(state: AllocationState) -> NodeAllocation:
    """Nodes a and b, where it has any."""
    match state:
        case AllocationState.UNDIVIDED:
            allocation = given()
        case AllocationState.RESTING:
            allocation = given(resting=True)
        case AllocationState.AWAITING:
            allocation = given(lambda one: one.assign(AB, set()))
        case AllocationState.WORKING:
            allocation = given(lambda one: one.assign(AB, AB))
        case AllocationState.RESTARTING:
            allocation = given(lambda one: one.assign(AB, ABC), NodeAllocation.restart)
        case AllocationState.GIVING_BACK:
            allocation = given(lambda one: one.release(AB))
    assert allocation.state is state
    return allocation


TRANSITIONS: dict[str, Callable[[NodeAllocation], object]] = {
    "assign, goes on": lambda one: one.assign(AB, AB),
    "assign, anew": lambda one: one.assign(AB, AB, anew=True),
    "assign, nothing in use": lambda one: one.assign(AB, set()),
    "assign, to shed": lambda one: one.assign(AB, ABC),
    "assign_all": NodeAllocation.assign_all,
    "release, in use": lambda one: one.release(AB),
    "release, not in use": lambda one: one.release(set()),
    "begin": NodeAllocation.begin,
    "restart": NodeAllocation.restart,
    "went_down": NodeAllocation.went_down,
}
ANY = frozenset(AllocationState)
WITHOUT = frozenset({RESTING, GIVING_BACK})
LEGAL: dict[tuple[str, AllocationState], AllocationState] = {
    **{("assign, goes on", state): AWAITING if state in WITHOUT else WORKING for state in ANY},
    **{(f"assign, {why}", state): AWAITING for state in ANY for why in ("anew", "nothing in use", "to shed")},
    **{("assign_all", state): AWAITING for state in ANY - {UNDIVIDED}},
    **{("release, in use", state): GIVING_BACK for state in ANY},
    **{("release, not in use", state): RESTING for state in ANY},
    ("begin", AWAITING): WORKING,
    ("restart", WORKING): RESTARTING,
    ("restart", AWAITING): RESTARTING,
    ("went_down", RESTARTING): AWAITING,
    ("went_down", GIVING_BACK): RESTING,
}


@pytest.mark.parametrize("state", AllocationState)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_each_transition_leads_where_the_table_says_or_is_illegal(transition: str, state: AllocationState) -> None:
    allocation = in_state(state)
    names = allocation.names
    if expected := LEGAL.get((transition, state)):
        TRANSITIONS[transition](allocation)
        assert allocation.state is expected
        return
    with pytest.raises(IllegalTransition, match=f"^{transition}: "):
        TRANSITIONS[transition](allocation)
    assert (allocation.state, allocation.names) == (state, names), "an illegal order changes nothing"


def test_who_has_all_nodes_is_not_given_them_again_and_nobody_is_assigned_none() -> None:
    for allocation in (given(NodeAllocation.assign_all, resting=True), in_state(UNDIVIDED)):
        with pytest.raises(IllegalTransition, match="assign_all: "):
            allocation.assign_all()
        with pytest.raises(IllegalTransition, match="without nodes is released"):
            allocation.assign(frozenset(), AB)
        assert allocation.names is None


def test_a_pipeline_plans_anew_with_a_node_that_is_new_to_it() -> None:
    allocation = in_state(WORKING)
    allocation.assign(ABC, AB)
    assert allocation.state is AWAITING
    first = given(lambda one: one.assign(ABC, AB))
    assert first.state is WORKING, "before the fleet was divided it had them all"


def test_what_is_wanted_whatever_it_gains_is_wanted_once() -> None:
    allocation = given(lambda one: one.assign(AB, AB, anew=True))
    assert allocation.begin()
    allocation.assign(ABC, AB)
    assert not allocation.begin()
    for again in (lambda: allocation.assign(AB, ABC), lambda: allocation.release(AB)):
        allocation.assign(AB, AB, anew=True)
        again()
        allocation.assign(ABC, set())
        assert not allocation.begin(), "the newest order counts"


def test_what_it_has_to_shed() -> None:
    assert not in_state(UNDIVIDED).has_to_shed(ABC)
    assert in_state(WORKING).has_to_shed(ABC)
    assert not in_state(WORKING).has_to_shed(set("a"))
    assert in_state(GIVING_BACK).has_to_shed(AB)


# --- what follows from the state ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "on_hold", "awaits", "goes_down", "has_nodes"),
    [
        (UNDIVIDED, False, False, False, True),
        (RESTING, True, False, False, False),
        (AWAITING, True, True, False, True),
        (WORKING, False, False, False, True),
        (RESTARTING, True, True, True, True),
        (GIVING_BACK, True, False, True, False),
    ],
)
def test_what_a_state_means(
    state: AllocationState, on_hold: bool, awaits: bool, goes_down: bool, has_nodes: bool
) -> None:
    assert (state.on_hold, state.awaits_nodes, state.goes_down, state.has_nodes) == (
        on_hold,
        awaits,
        goes_down,
        has_nodes,
    )
    assert (in_state(state).names == frozenset()) is not has_nodes


def fleet() -> FleetState:
    state = FleetState(silence=SilenceLimits(5.0))
    for name in "abc":
        state.apply(name, make_birth(name), 0.0, retained=False)
    return state


@pytest.mark.parametrize("state", AllocationState)
def test_no_plan_is_begun_while_the_fleet_is_divided_and_only_the_first_waits_for_nodes(state: AllocationState) -> None:
    dividing = True
    nodes = PipelineNodes(fleet(), in_state(state), min_nodes=3, is_dividing=lambda: dividing)
    assert nodes.on_hold
    dividing = False
    assert nodes.on_hold is state.on_hold
    assert nodes.min_nodes == (3 if state is UNDIVIDED else 1)


@pytest.mark.parametrize(
    ("state", "expected"), [(UNDIVIDED, "ab"), (WORKING, "ab"), (AWAITING, "ab"), (RESTING, ""), (GIVING_BACK, "")]
)
def test_a_pipeline_sees_its_own_nodes_that_nobody_holds(state: AllocationState, expected: str) -> None:
    nodes = PipelineNodes(fleet(), in_state(state), min_nodes=1, is_dividing=lambda: False)
    nodes.hold_elsewhere(C)
    assert "".join(birth.node for birth in nodes.usable()) == expected
    assert nodes.are_free() is (state is not UNDIVIDED)
