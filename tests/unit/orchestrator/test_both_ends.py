"""A ring that lists one node twice: it holds the embedding and the head, which share their weights."""

import pytest

from orchestrator.deployment.rollout import Rollout
from orchestrator.events import BusUp, NodeSaid
from schemas.codec import Flag
from schemas.messages import (
    CloseRequest,
    FetchProgress,
    OpenRequest,
    Plan,
    PrepareProgress,
    PrepareSegment,
    RequestClosed,
    SegmentFailed,
    StageTiming,
    StreamEnd,
    StreamError,
)
from tests.support.orchestrating import World
from tests.support.scripted_nodes import answer_text, make_submit, room_for

ENDS_MB = room_for(embed=1, block=3.1, head=1)
BLOCKS_MB = room_for(block=1.2)
"""No end: a plan of these two must give both ends to the larger, which has no room for all blocks."""


def two_nodes() -> World:
    world = World().up()
    world.join("a", memory_mb=ENDS_MB)
    world.join("b", memory_mb=BLOCKS_MB)
    return world


@pytest.fixture
def world() -> World:
    world = two_nodes()
    world.wait(2.0)
    assert world.plan.ring
    return world


def rolling_out() -> tuple[World, Rollout]:
    """Both nodes have their commands and say nothing."""
    world = two_nodes()
    for node in world.nodes.values():
        node.silent = True
    world.wait(2.0)
    rollout = world.underway
    assert isinstance(rollout, Rollout)
    return world, rollout


def ring(world: World) -> list[str]:
    return [stage.node for stage in world.plan.ring]


def test_both_stages_are_prepared_with_the_nodes_whole_memory(world: World) -> None:
    first, middle, last = ring(world)
    assert first == last != middle
    ends = world.commands(first, PrepareSegment)
    assert [prepare.stage for prepare in ends] == [0, 2]
    of_node = world.core.plane.pipeline.active.plan.solution.predicted.of_node(first)  # type: ignore[union-attr]
    assert {prepare.planned_bytes for prepare in ends} == {of_node.memory_bytes}
    assert {prepare.batches for prepare in ends} == {world.commands(middle, PrepareSegment)[0].batches}


def test_the_plan_waits_for_both_stages_of_the_node() -> None:
    world, rollout = rolling_out()
    first = rollout.plan.nodes[0]
    for name, stage in ((rollout.plan.nodes[1], 1), (first, 0)):
        prepare = next(p for p in world.commands(name, PrepareSegment) if p.stage == stage)
        world.event(NodeSaid(name, world.nodes[name].ready(prepare)))
    assert world.core.plane.pipeline.active is None
    last = next(p for p in world.commands(first, PrepareSegment) if p.stage == 2)
    for stage, done_bytes in ((0, 3), (2, 4)):
        progress = PrepareProgress(
            node=first, pipeline="main", epoch=last.epoch, stage=stage, done_bytes=done_bytes, total_bytes=9
        )
        world.event(NodeSaid(first, progress))
    assert world.core.plane.pipeline.progress()[first] == FetchProgress(done_bytes=7, total_bytes=18)
    world.event(NodeSaid(first, world.nodes[first].ready(last)))
    assert world.core.plane.pipeline.active is not None


def test_a_node_that_never_gets_its_second_stage_ready_fails_the_epoch() -> None:
    world, rollout = rolling_out()
    epoch = rollout.plan.epoch
    for name, stage in ((rollout.plan.nodes[1], 1), (rollout.plan.nodes[0], 2)):
        prepare = next(p for p in world.commands(name, PrepareSegment) if p.stage == stage)
        world.event(NodeSaid(name, world.nodes[name].ready(prepare)))
    world.wait(120.0)
    assert rollout.failed_node == rollout.plan.nodes[0]
    assert "no progress" in rollout.reason
    assert world.core.plane.pipeline.active is None
    assert epoch not in [plan.epoch for plan in world.published(Plan)]


def test_who_was_away_is_told_again_what_to_prepare() -> None:
    world, rollout = rolling_out()
    first, middle = rollout.plan.nodes[:2]

    def told(name: str) -> list[int]:
        return [prepare.stage for prepare in world.commands(name, PrepareSegment)]

    world.event(NodeSaid(first, world.nodes[first].ready(world.commands(first, PrepareSegment)[0])))
    world.event(NodeSaid(first, world.nodes[first].birth))
    assert told(first) == [0, 2, 2], "its first stage is ready"
    assert told(middle) == [1]
    world.event(BusUp(reconnect=True))
    assert (told(first), told(middle)) == ([0, 2, 2, 2], [1, 1])


def test_one_stage_that_fails_releases_the_epoch_everywhere() -> None:
    world, rollout = rolling_out()
    first = rollout.plan.nodes[0]
    failed = SegmentFailed(node=first, incarnation=1, pipeline="main", epoch=rollout.plan.epoch, reason="out of memory")
    world.event(NodeSaid(first, failed))
    assert rollout.failed_node == first


def test_a_request_is_opened_from_the_last_stage_to_the_first_and_closed_once(world: World) -> None:
    first = ring(world)[0]
    request = world.ask(make_submit(stats=True))
    opened = [e.message for e in world.effects if getattr(getattr(e, "message", None), "request", None) == request
              and isinstance(e.message, OpenRequest)]  # fmt: skip
    assert [message.stage for message in opened] == [2, 1, 0]
    assert [message.sampling is not None for message in opened] == [True, False, False]
    assert [message.prompt_ids is not None for message in opened] == [True, False, True], "who guesses knows the prompt"
    world.generate(request, 8, flags=Flag.LENGTH)
    assert len(world.commands(first, CloseRequest)) == 1
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert [(timing.stage, timing.node) for timing in end.stages] == list(enumerate(ring(world)))
    assert world.text(request) == answer_text(5, 8)


def test_the_figures_of_one_stage_do_not_stand_for_the_other(world: World) -> None:
    first, middle, _ = ring(world)
    request = world.ask(make_submit(stats=True))
    for node in world.nodes.values():
        node.alive = False  # their figures come by hand
    world.generate(request, 8, flags=Flag.LENGTH)
    for name, stage in ((first, 0), (middle, 1), (first, 0)):
        closed = RequestClosed(request=request, timing=StageTiming(node=name, stage=stage))
        world.event(NodeSaid(name, closed))
    assert world.end(request) is None
    world.event(NodeSaid(first, RequestClosed(request=request, timing=StageTiming(node=first, stage=2))))
    assert isinstance(world.end(request), StreamEnd)


def test_the_loss_of_either_node_interrupts_the_answer(world: World) -> None:
    request = world.ask(make_submit(patience_s=60.0))
    world.generate(request, 2)
    world.kill(ring(world)[1])
    world.wait(20.0)
    assert world.end(request) is None, "it may be back"
    world.wait(60.0)
    assert isinstance(world.end(request), StreamError)
    assert world.plan.ring == ()


def test_an_answer_goes_on_in_another_ring_with_both_ends_on_one_node(world: World) -> None:
    request = world.ask()
    world.generate(request, 3)
    lost = ring(world)[0]
    world.kill(lost)
    world.join("c", memory_mb=ENDS_MB)
    world.wait(3.0)
    assert lost not in ring(world)
    assert len(ring(world)) == 3
    assert len(set(ring(world))) == 2
    world.generate(request, 5, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 8)
