"""What a node holds for nobody is ended: requests, and layers of an epoch that is over."""

from __future__ import annotations

import pytest

from orchestrator.timing import Timing
from schemas.messages import KeepRequests, ReleaseSegment, StageMetrics
from tests.support.orchestrating import World

LEFTOVER_S = Timing().leftover_s


@pytest.fixture
def world() -> World:
    return World().serve("a", "b", "c")


def told(world: World) -> list[KeepRequests]:
    return world.published(KeepRequests)


def holds(world: World, open_requests: int, for_s: float) -> None:
    """Let time pass while the ring's first node says that it holds so many requests."""
    plan = world.plan
    stage = StageMetrics(pipeline=plan.pipeline, epoch=plan.epoch, stage=0, open_requests=open_requests)
    world.condition[plan.ring[0].node] = {"stages": (stage,)}
    world.wait(for_s)


def test_a_node_that_holds_what_nobody_asked_for_ends_it(world: World) -> None:
    holds(world, 1, LEFTOVER_S + 1)
    assert [keep.requests for keep in told(world)] == [()]


def test_open_requests_go_on(world: World) -> None:
    request = world.ask()
    holds(world, 2, LEFTOVER_S + 1)
    assert [keep.requests for keep in told(world)] == [(request,)]


def test_a_node_that_holds_what_is_open_is_left_alone(world: World) -> None:
    world.ask()
    holds(world, 1, LEFTOVER_S + 1)
    assert not told(world)


def test_what_lasts_a_moment_is_none(world: World) -> None:
    for _ in range(3):
        holds(world, 1, LEFTOVER_S / 2)
        holds(world, 0, 1)
    assert not told(world)


def test_it_is_told_again_while_it_holds_them(world: World) -> None:
    holds(world, 1, 3 * LEFTOVER_S + 1)
    assert len(told(world)) == 3


def test_layers_of_an_epoch_that_is_over_are_let_go(world: World) -> None:
    """The message that has put the next plan in force could not be read, and the node has no part in that."""
    over = world.plan.epoch
    world.kill("b")
    world.join("d")
    world.wait(5)
    assert over < world.plan.epoch
    stage = StageMetrics(pipeline=world.plan.pipeline, epoch=over, stage=1, open_requests=2)
    world.join("e")
    world.condition["e"] = {"stages": (stage,)}
    before = len(world.published(ReleaseSegment))
    world.wait(LEFTOVER_S + 1)
    assert [release.epoch for release in world.published(ReleaseSegment)[before:]] == [over]
    assert world.commands("e", ReleaseSegment)
    assert not told(world)
