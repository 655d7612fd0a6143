"""Nodes of a ring at work that fall silent: missed soon, replaced where others can take over, else awaited."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.effects import BuildSegments
from orchestrator.events import Cancelled, NodeSaid
from orchestrator.timing import Timing
from schemas.codec import Flag
from schemas.messages import (
    CancelRequest,
    NodeStatus,
    OpenRequest,
    PrepareSegment,
    ResendTokens,
    StreamEnd,
    StreamError,
    StreamStatus,
)
from tests.support.orchestrating import World, begun, ends_well
from tests.support.scripted_nodes import make_heartbeat, make_manifest, make_submit
from tests.unit.orchestrator.replanning.test_exclusions import notes, ring

TIMING = Timing()
SOON_S = TIMING.silence_s + 1.0
"""From the last heartbeat on; there is one a second in these tests."""


def freeze(world: World, node: str) -> None:
    """It says nothing more, and forgets nothing."""
    world.nodes[node].alive = False


def thaw(world: World, node: str) -> None:
    world.nodes[node].alive = True
    world.event(NodeSaid(node, make_heartbeat(node)))


def waits(world: World, request: str) -> list[str]:
    """What the reader of a request was told that it waits for."""
    return [piece.waits_for for piece in world.stream(request) if isinstance(piece, StreamStatus)]


def middle(world: World) -> str:
    return world.plan.ring[1].node


def test_a_silent_node_is_replaced_soon_and_what_stays_is_kept_loaded() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request, epoch, silent = begun(world), world.plan.epoch, middle(world)
    freeze(world, silent)
    world.wait(SOON_S)
    assert silent not in ring(world)
    assert world.plan.epoch > epoch
    commands = [command for node in sorted(ring(world)) for command in world.commands(node, PrepareSegment)]
    bases = [command.basis.epoch for command in commands if command.epoch == world.plan.epoch and command.basis]
    assert bases == [epoch] * 3
    ends_well(world, request)
    thaw(world, silent)
    assert "it is here" in notes(world, "joined")[-1].replace(silent, "it").replace("node ", "")


def test_it_is_awaited_where_no_plan_does_without_it_and_goes_on_with_what_it_knew() -> None:
    world = World(timing=TIMING).serve("a", "b", "c")
    request, epoch, silent = begun(world), world.plan.epoch, middle(world)
    freeze(world, silent)
    world.wait(60.0)
    assert world.plan.epoch == epoch
    later = world.ask(make_submit(2, patience_s=600.0))
    opened = len(world.published(OpenRequest))
    world.wait(10.0)
    assert len(world.published(OpenRequest)) == opened, "nobody begins in a ring that stands still"
    thaw(world, silent)
    assert notes(world, "returned") == [f"{silent} is back in time"]
    repeats = world.commands(world.plan.ring[0].node, ResendTokens)
    assert [(one.request, one.first_stage) for one in repeats] == [(request, True)]
    assert world.plan.epoch == epoch
    ends_well(world, request)
    world.generate(later, 8, flags=Flag.LENGTH)
    assert isinstance(world.end(later), StreamEnd)


def test_readers_in_mid_answer_are_told_why_no_plan_does_without_it_and_what_to_do() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", memory_mb=2000)
    world.control("apply", pins=[["ends", "b"], ["0-3", "c"]], max_memory_mb=[["a", 1900]])
    world.wait(3.0)
    assert [stage.node for stage in world.plan.ring] == ["b", "c", "b"]
    request = begun(world)
    world.kill("c")
    world.wait(4.0)
    why = (
        "node c: --pin 0-3=c can't be kept: 'c' is not there;"
        " drop --pin 0-3=c: linguabus plan apply --pin ends=b --max-memory a=1900"
    )
    assert waits(world, request)[-1] == why
    hasty = world.ask(make_submit(2, patience_s=0.0))
    world.wait(1.0)
    end = world.end(hasty)
    assert isinstance(end, StreamError)
    assert end.reason.startswith(why)
    world.control("apply", pins=[["ends", "b"]], max_memory_mb=[["a", 1900]])
    world.wait(2.0)
    ends_well(world, request)


def test_readers_in_mid_answer_are_told_of_the_plan_that_is_on_its_way() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request, silent = begun(world), middle(world)
    for node in world.nodes.values():
        node.silent = True
    freeze(world, silent)
    world.wait(SOON_S + 2.0)
    assert waits(world, request)[-1] == f"a plan without {silent}: rolling out"


def test_a_node_that_joins_takes_its_place() -> None:
    world = World(timing=TIMING).serve("a", "b", "c")
    request, silent = begun(world), middle(world)
    freeze(world, silent)
    world.wait(20.0)
    world.join("d")
    world.wait(2.0)
    assert ring(world) == {"a", "b", "c", "d"} - {silent}
    ends_well(world, request)


def test_it_is_not_awaited_for_ever() -> None:
    world = World(timing=TIMING).serve("a", "b", "c")
    request, silent = begun(world), middle(world)
    freeze(world, silent)
    world.wait(TIMING.await_s + 10.0)
    assert not world.plan.ring
    assert world.end(request) is None, "its reader is more patient"
    world.wait(600.0)
    assert isinstance(world.end(request), StreamError)


def test_one_that_started_again_has_nothing_to_go_on_with() -> None:
    world = World(timing=TIMING).serve("a", "b", "c")
    request, epoch, lost = begun(world), world.plan.epoch, middle(world)
    world.kill(lost)
    world.wait(5.0)
    world.join(lost, incarnation=2)
    world.wait(1.0)
    assert world.plan.epoch > epoch
    ends_well(world, request)


def test_once_nobody_waits_the_ring_is_given_up() -> None:
    world = World(timing=TIMING).serve("a", "b", "c")
    request, silent = begun(world), middle(world)
    freeze(world, silent)
    world.wait(5.0)
    world.event(Cancelled("cli", CancelRequest(request=request)))
    world.wait(1.0)
    assert not world.plan.ring


def test_a_node_that_is_back_before_its_successor_is_ready_stays() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request, epoch, silent = begun(world), world.plan.epoch, middle(world)
    world.hold = (BuildSegments,)
    freeze(world, silent)
    world.wait(SOON_S)
    assert world.underway
    thaw(world, silent)
    world.hold = ()
    world.wait(1.0)
    assert world.plan.epoch == epoch
    ends_well(world, request)


def test_a_second_node_that_falls_silent_is_awaited_too() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request, epoch = begun(world), world.plan.epoch
    first, second = (stage.node for stage in world.plan.ring[:2])
    world.hold = (BuildSegments,)
    freeze(world, first)
    world.wait(SOON_S)
    freeze(world, second)
    world.wait(SOON_S)
    world.hold = ()
    assert world.plan.epoch == epoch
    thaw(world, first)
    world.wait(1.0)
    assert world.plan.epoch > epoch, "it takes its place without the second"
    assert second not in ring(world)
    ends_well(world, request)


def test_another_model_waits_for_what_is_open() -> None:
    """Though there is a plan for it, as it is smaller."""
    models = {"tiny": make_manifest(), "other": make_manifest("other", blocks=1)}
    world = World(models=models, timing=TIMING).serve("a", "b", "c")
    request, epoch, silent = begun(world), world.plan.epoch, middle(world)
    freeze(world, silent)
    world.wait(10.0)
    world.control("use_model", model="other")
    world.wait(5.0)
    assert world.underway
    assert world.plan.epoch == epoch
    thaw(world, silent)
    ends_well(world, request)
    world.wait(5.0)
    assert world.plan.model == "other"


# --- who is missed --------------------------------------------------------------------------------------------------


def lost(world: World) -> list[str]:
    return [text.split()[1] for text in notes(world, "lost")]


def test_a_node_that_nobody_needs_is_missed_later() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    begun(world)
    (spare,) = set(world.nodes) - ring(world)
    freeze(world, spare)
    world.wait(8.0)
    assert lost(world) == []
    world.wait(3.0)
    assert lost(world) == [spare]


def test_a_ring_without_requests_is_not_watched_so_closely() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    world.generate(world.ask(make_submit(patience_s=600.0)), 8, flags=Flag.LENGTH)
    freeze(world, middle(world))
    world.wait(8.0)
    assert lost(world) == []
    asked_now = world.ask(make_submit(2, patience_s=600.0))
    world.wait(SOON_S)
    assert len(lost(world)) == 1
    assert world.end(asked_now) is None


@pytest.mark.parametrize("busy_s", [5.0, 60.0])
def test_a_node_that_said_that_it_computes_is_not_missed_meanwhile(busy_s: float) -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    begun(world)
    busy = middle(world)
    world.event(NodeSaid(busy, replace(make_heartbeat(busy), busy_s=busy_s)))
    freeze(world, busy)
    world.wait(busy_s - 0.5)
    assert lost(world) == []
    world.wait(2.0)
    assert lost(world) == [busy]


def test_tokens_show_that_all_nodes_of_the_ring_work() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request = begun(world, 1)
    freeze(world, middle(world))
    for _ in range(6):
        world.wait(1.0)
        world.generate(request, 1)
    assert lost(world) == []
    world.wait(SOON_S)
    assert len(lost(world)) == 1


def test_when_all_are_silent_it_may_be_the_broker() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request, epoch = begun(world), world.plan.epoch
    for node in world.nodes:
        freeze(world, node)
    world.wait(8.0)
    assert lost(world) == []
    for node in world.nodes:
        thaw(world, node)
    assert world.plan.epoch == epoch
    ends_well(world, request)


def test_who_is_heard_seldom_is_missed_later() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    begun(world)
    slow = middle(world)
    freeze(world, slow)
    for _ in range(4):
        world.wait(1.4)
        world.event(NodeSaid(slow, make_heartbeat(slow)))
    world.wait(1.4 * 1.5 - 0.3)
    assert lost(world) == []
    world.wait(1.0)
    assert lost(world) == [slow]


def test_a_link_that_is_cut_for_a_moment_changes_nothing() -> None:
    world = World(timing=TIMING).serve("a", "b", "c", "d")
    request, epoch, node = begun(world), world.plan.epoch, middle(world)
    for online in (False, True):
        world.event(NodeSaid(node, NodeStatus(node=node, incarnation=1, online=online, reason="lost")))
        world.wait(TIMING.loss_settle_s / 2)
    assert world.plan.epoch == epoch
    ends_well(world, request)
