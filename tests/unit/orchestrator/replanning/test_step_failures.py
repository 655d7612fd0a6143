"""Nodes that can't compute a step of a request: who is set apart, and what becomes of the request."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.events import NodeSaid
from orchestrator.requests.step_failures import MOST_TRIES
from orchestrator.timing import Timing
from schemas.messages import RequestFailed, RequestFailureCode, StreamError
from tests.support.orchestrating import World, begun, ends_well
from tests.support.scripted_nodes import make_submit
from tests.unit.orchestrator.replanning.test_exclusions import drained, notes, ring

NAN = "a hidden state that it computed is NaN or infinite"


def fails(world: World, request: str, node: str, code: RequestFailureCode = "not_finite", **said: Any) -> None:
    failure = RequestFailed(
        node=node, epoch=world.plan.epoch, request=request, code=code, reason=NAN, **({"suspect": node} | said)
    )
    world.event(NodeSaid(node, failure))
    world.wait(1.0)


def reason(world: World, request: str) -> str:
    end = world.end(request)
    assert isinstance(end, StreamError)
    assert end.code == "failed"
    return end.reason


@pytest.mark.parametrize("code", ["not_finite", "cannot_run"])
def test_the_request_goes_on_without_the_node_that_fails(code: RequestFailureCode) -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request = begun(world, patience_s=0.0)
    sick = world.plan.ring[1].node
    fails(world, request, sick, code)
    assert world.plan.ring
    assert sick not in ring(world)
    ends_well(world, request)
    assert drained(world) == {sick: NAN}
    assert notes(world, "set_apart") == [f"node {sick} is set apart: {NAN}"]
    world.wait(60.0)
    assert drained(world) == {}


def test_who_sent_what_is_not_finite_is_set_apart_not_who_says_so() -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request = begun(world, patience_s=0.0)
    sender, receiver = world.plan.ring[1].node, world.plan.ring[2].node
    fails(world, request, receiver, "bad_input", suspect=sender)
    assert sender not in ring(world)
    assert receiver in ring(world)
    ends_well(world, request)
    assert drained(world) == {sender: f"it sent {receiver} what is not finite"}


def test_nobody_is_set_apart_for_what_may_be_the_orchestrators_fault() -> None:
    world = World(timing=Timing()).serve("a", "b", "c")
    request = begun(world, patience_s=0.0)
    epoch = world.plan.epoch
    fails(world, request, world.plan.ring[0].node, "internal", suspect=None)
    assert world.plan.ring
    assert world.plan.epoch > epoch
    assert drained(world) == {}
    ends_well(world, request)


def test_a_name_that_is_not_in_the_ring_is_not_set_apart() -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request = begun(world, patience_s=0.0)
    (spare,) = set(world.nodes) - ring(world)
    fails(world, request, world.plan.ring[0].node, suspect=spare)
    assert drained(world) == {}
    ends_well(world, request)


def test_the_same_on_another_node_is_the_models_fault() -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request, other = begun(world, patience_s=0.0), asked_another(world)
    first = world.plan.ring[1].node
    fails(world, request, first)
    (second,) = [stage.node for stage in world.plan.ring if stage.node != first][:1]
    fails(world, request, second)
    why = f"{second}: {NAN}, as on {first}: it is the model, whose weights do not suit this precision"
    assert reason(world, request) == why
    assert drained(world) == {}, "neither of them is to blame"
    assert world.end(other) is None


def asked_another(world: World) -> str:
    return world.ask(make_submit(2, max_tokens=20))


def test_a_node_that_no_plan_does_without_tries_again() -> None:
    """Its known answers are right: it may be the model's fault."""
    world = World(timing=Timing()).serve("a", "b", "c")
    request = begun(world, patience_s=0.0)
    sick = world.plan.ring[1].node
    fails(world, request, sick)
    assert sick in ring(world)
    assert "last_resort" in {effect.kind for effect in world.effects if hasattr(effect, "kind")}
    world.generate(request, 1)
    fails(world, request, sick)
    assert world.end(request) is None, "a token came in between"
    fails(world, request, sick)
    assert (
        reason(world, request)
        == f"{sick}: {NAN}, in two rings, and no other node can try: it is this node, or the model"
    )
    assert ring(world) == {"a", "b", "c"}, "others are served"


def test_a_node_that_sends_what_is_not_finite_is_no_last_resort() -> None:
    world = World(timing=Timing()).serve("a", "b", "c")
    request = begun(world, patience_s=0.0)
    ring_before = [stage.node for stage in world.plan.ring]
    fails(world, request, ring_before[2], "bad_input", suspect=ring_before[1])
    assert not world.plan.ring


def test_rings_are_not_tried_for_ever() -> None:
    world = World(timing=Timing()).serve("a", "b", "c")
    request = begun(world, patience_s=0.0)
    for _ in range(MOST_TRIES):
        assert world.end(request) is None
        fails(world, request, world.plan.ring[0].node, "internal", suspect=None)
    assert f"{MOST_TRIES} rings have failed" in reason(world, request)


def test_it_is_tried_again_after_longer_and_longer_pauses() -> None:
    world = World(timing=Timing()).serve("a", "b", "c")
    pauses = []
    for number in range(3):
        request = world.ask(make_submit(number + 10, max_tokens=20))
        begun_s = world.now_s
        fails(world, request, "b", "bad_input", suspect="a")
        while not world.plan.ring:
            world.wait(1.0)
        pauses.append(round(world.now_s - begun_s, -1))
    assert pauses == [30, 60, 120]
