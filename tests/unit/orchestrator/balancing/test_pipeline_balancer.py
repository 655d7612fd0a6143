"""The balancer at work: heartbeats of a slow node lead to another plan, with the reason on record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.balancing.pipeline_balancer import reading_of
from schemas.messages import StageMetrics
from tests.support.orchestrating import World
from tests.support.scripted_nodes import make_heartbeat
from tests.unit.orchestrator.fleet.test_profiles import MANIFEST, profile_of


def units(world: World, node: str) -> int:
    return sum(ref.stop - ref.start for ref in world.plan.ring if ref.node == node)


def metrics(world: World, stage: int, ratio: float, beat: int) -> StageMetrics:
    """Of a stage whose node takes ``ratio`` times as long as it measured."""
    ref, last = world.plan.ring[stage], MANIFEST.num_units - 1
    counts = (int(ref.start == 0), min(ref.stop, last) - max(ref.start, 1), int(ref.stop > last))
    run_s = ratio * (1 + 0.01 * (beat % 3)) * profile_of().stage_s(counts)
    return StageMetrics(
        pipeline="main", epoch=world.plan.epoch, stage=stage, decode_s=run_s, decode_rows=1.0,
        positions=10 * beat + 10, open_requests=1,
    )  # fmt: skip


def slow(world: World, slow_node: str, ratio: float, seconds: int, begin: int = 0) -> None:
    """Let heartbeats come in, one a second."""
    for beat in range(begin, begin + seconds):
        for stage, ref in enumerate(world.plan.ring):
            told = metrics(world, stage, ratio if ref.node == slow_node else 1.0, beat)
            world.condition[ref.node] = {"stages": (told,)}
        world.wait(1.0)


def serving() -> World:
    world = World(models={"tiny": MANIFEST}).serve("a", "b", "c", "d")
    world.core.plane.pipelines.profiles.load([profile_of(node) for node in "abcd"])
    world.control("replan")
    world.wait(3.0)
    return world


def test_a_slow_node_loses_its_units_and_the_reason_is_recorded() -> None:
    world = serving()
    node = max("abcd", key=lambda name: units(world, name))
    slow(world, node, 1.0, 10)
    before = units(world, node)
    slow(world, node, 4.0, 8, begin=10)
    assert units(world, node) < before
    said = world.control("why")
    assert said
    (pipeline,) = said.result["pipelines"]
    verdicts = [(one["verdict"], one["reason"]) for one in pipeline["decisions"]]
    assert any(verdict == "ask" and reason.startswith(f"{node} counts as ") for verdict, reason in verdicts)
    assert any(verdict == "move" and "less time per token" in reason for verdict, reason in verdicts)


def test_nodes_that_are_as_quick_as_planned_keep_what_they_have() -> None:
    world = serving()
    epoch = world.plan.epoch
    slow(world, "", 1.0, 30)
    assert world.plan.epoch == epoch


def test_a_reading_is_of_all_stages_of_the_plan_in_force_that_decode() -> None:
    world = serving()
    plan = world.core.plane.pipeline.active
    assert plan
    node = plan.plan.nodes[0]
    told = metrics(world, 0, 2.0, 0)
    beat = replace(make_heartbeat(node), stages=(told,))
    reading = reading_of(beat, plan.plan, profile_of(node))
    assert reading
    assert reading.observed_s / reading.expected_s == pytest.approx(2.0)
    assert reading.positions == told.positions
    for other in (replace(told, decode_s=None), replace(told, pipeline="main-2"), replace(told, stage=9)):
        assert reading_of(replace(beat, stages=(other,)), plan.plan, profile_of(node)) is None
