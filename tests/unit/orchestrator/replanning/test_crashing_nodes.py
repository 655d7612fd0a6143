"""Nodes whose process ends whenever they load a segment: counted by name over their starts, and left out."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.events import NodeSaid
from orchestrator.timing import Timing
from schemas.messages import NodeStatus, PrepareSegment
from tests.support.orchestrating import World
from tests.unit.orchestrator.replanning.test_exclusions import drained, notes, ring

SICK = "b"


def loads(world: World, node: str = SICK) -> int:
    return len(world.commands(node, PrepareSegment))


def run(world: World, seconds: float, restart_s: float = 3.0) -> list[float]:
    """Let time pass while the sick node's process ends whenever it is to load, and is started again; when it loaded."""
    incarnations = itertools.count(100)
    begun_s, crashes = world.now_s, []
    while world.now_s < begun_s + seconds:
        before = loads(world)
        world.wait(0.5)
        if loads(world) > before:
            crashes.append(world.now_s - begun_s)
            world.kill(SICK)
            world.wait(restart_s)
            world.join(SICK, incarnation=next(incarnations))
            world.nodes[SICK].silent = True
    return crashes


def sick_world(*well: str) -> World:
    world = World(timing=Timing()).up()
    world.join(*well, SICK)
    world.nodes[SICK].silent = True
    return world


@pytest.mark.parametrize("well", [("a", "c"), ("a", "c", "d")])
def test_it_does_not_take_the_fleet_through_a_loop(well: tuple[str, ...]) -> None:
    """Whether a plan does without it or not; the second crash in a row is the first that counts."""
    world = sick_world(*well)
    crashes = run(world, 1000.0)
    assert len(crashes) >= 5 if len(well) == 2 else len(crashes) >= 1
    pauses = [after - before for before, after in itertools.pairwise(crashes)]
    assert pauses[1:] == sorted(pauses[1:])
    assert all(pause >= least for pause, least in zip(pauses[1:], (30, 60, 120, 240, 300), strict=False))
    if len(well) == 2:
        assert f"its process ended {len(crashes)} times while it loaded a segment" in drained(world).get(SICK, "")
        assert f"node {SICK} is set apart: its process ended 2 times while it loaded a segment" in notes(
            world, "set_apart"
        )
    else:
        assert ring(world) == set(well)


def test_what_loads_in_the_end_counts_anew() -> None:
    world = sick_world("a", "c")
    assert len(run(world, 20.0)) == 2
    world.nodes[SICK].silent = False
    world.wait(60.0)
    assert ring(world) == {"a", "b", "c"}
    world.kill(SICK)
    world.wait(2.0)
    world.join(SICK, incarnation=900)
    world.nodes[SICK].silent = True
    assert len(run(world, 20.0)) == 2, "again one for nothing"


def test_a_link_that_is_cut_is_no_crash() -> None:
    world = sick_world("a", "c")
    for _ in range(4):
        world.wait(2.0)
        incarnation = world.nodes[SICK].birth.incarnation
        world.event(NodeSaid(SICK, NodeStatus(node=SICK, incarnation=incarnation, online=False, reason="lost")))
        world.wait(0.2)
        world.event(NodeSaid(SICK, NodeStatus(node=SICK, incarnation=incarnation, online=True)))
        assert drained(world) == {}


def test_who_says_that_it_goes_has_not_crashed() -> None:
    world = sick_world("a", "c")
    for incarnation in range(10, 14):
        world.wait(2.0)
        old = world.nodes[SICK].birth.incarnation
        bye = NodeStatus(node=SICK, incarnation=old, online=False, leaving=True, reason="stopped")
        world.event(NodeSaid(SICK, bye))
        world.join(SICK, incarnation=incarnation)
        world.nodes[SICK].silent = True
        assert drained(world) == {}
