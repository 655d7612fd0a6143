"""Which nodes are told to keep which blobs, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.deployment.standby import StandbyUnits, kept_by
from orchestrator.effects import Note, PlanStandby, Publish
from orchestrator.events import JobFailed, NodeSaid, StandbyPlanned
from orchestrator.model.served_draft import ServedDraft
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Standby
from orchestrator.planning.standby.plan_standby import plan_standby
from schemas.messages import BlobRef, KeepBlobs
from tests.support.orchestrating import BLOB_URL, World
from tests.support.scripted_nodes import MB, make_birth, make_heartbeat, make_manifest

NODES = ("a", "b", "c")


def cold(problem: Problem, stages: tuple[Stage, ...]) -> tuple[Standby, ...]:
    return plan_standby(problem, stages, disk_only=True).standby


def serving(solver: Any = cold, **birth: Any) -> World:
    """Three nodes with a plan, and room for standby units on their disks."""
    world = World()
    world.standby_solver = solver
    return world.serve(*NODES, **birth)


def kept(world: World) -> dict[str, set[str]]:
    """Names of the blobs that each node was last told to keep."""
    told = {node: world.commands(node, KeepBlobs) for node in sorted(world.nodes)}
    return {node: {blob.sha256 for blob in messages[-1].blobs} for node, messages in told.items() if messages}


def units_of(world: World) -> dict[str, tuple[int, int]]:
    return {stage.node: (stage.start, stage.stop) for stage in world.plan.ring}


def blobs_of(world: World, *units: int) -> set[str]:
    manifest = world.models["tiny"]
    return {blob.sha256 for unit in units for blob in manifest.blobs_of(unit, unit + 1)}


def asked(world: World) -> list[PlanStandby]:
    return [effect for effect in world.effects if isinstance(effect, PlanStandby)]


def test_a_committed_plan_is_followed_by_standby_units() -> None:
    world = serving()
    (job,) = asked(world)
    assert (job.pipeline, job.epoch) == ("main", world.plan.epoch)
    assert job.stages == tuple(Stage(stage.node, stage.start, stage.stop) for stage in world.plan.ring)
    assert job.problem.time_limit_s <= 2
    first, middle, last = world.plan.ring
    told = kept(world)
    assert set(told) == set(NODES)
    everything = set().union(*told.values())
    assert blobs_of(world, *range(6)) - everything <= blobs_of(world, 1), "all but the table that all blocks share"
    assert told[first.node].isdisjoint(blobs_of(world, *range(first.start, first.stop)))
    assert told[middle.node].isdisjoint(blobs_of(world, *range(middle.start, middle.stop)))
    assert told[last.node] <= blobs_of(world, *range(middle.start, middle.stop))
    (message,) = world.commands("a", KeepBlobs)
    assert message.pipeline == "main"
    assert message.blob_urls == (BLOB_URL,)


def test_a_draft_model_goes_with_the_head() -> None:
    """Who may get the head has it on its disk too, and who has the head need not be told."""
    world = serving()
    active = world.core.plane.pipeline.active
    assert active
    draft = make_manifest("draft", blocks=1, block_bytes=3 * MB)
    own = replace(draft.blobs[-1], sha256="9" * 64)
    model = replace(active.plan.model, draft=ServedDraft(replace(draft, blobs=(own,))))
    plan = replace(active.plan, model=model, draft="draft")
    middle, last = plan.nodes[-2:]
    head = (Standby(middle, 5, 6, 5, 5), Standby(last, plan.ring[-1].start - 1, plan.ring[-1].start, 0, 0))
    found = {node: {blob.sha256 for blob in kept_by(plan, node, head).blobs} for node in (middle, last)}
    assert own.sha256 in found[middle]
    assert own.sha256 not in found[last]
    assert own.sha256 not in {blob.sha256 for blob in kept_by(replace(plan, draft=None), middle, head).blobs}


def test_the_nearest_units_come_first() -> None:
    def far_left(problem: Problem, stages: tuple[Stage, ...]) -> tuple[Standby, ...]:
        last = stages[-1]
        return (Standby(last.node, 1, last.start, last.start, last.start),)

    world = serving(far_left)
    last = world.plan.ring[-1]
    (message,) = world.commands(last.node, KeepBlobs)
    own = blobs_of(world, *range(last.start, last.stop))
    units = [f"{unit:064x}" for unit in range(last.start - 1, 0, -1)]
    assert [blob.sha256 for blob in message.blobs if blob.sha256 in units] == units
    assert not own & {blob.sha256 for blob in message.blobs}
    assert BlobRef(sha256=f"{last.start - 1:064x}", size_bytes=10 * MB) in message.blobs


def test_no_more_is_kept_than_disks_hold() -> None:
    world = serving(storage_bytes=41 * MB)
    sizes = {blob.sha256: blob.size_bytes for blob in world.models["tiny"].blobs}
    assert any(kept(world).values())
    for node, told in kept(world).items():
        blobs = told | blobs_of(world, *range(*units_of(world)[node]))
        assert sum(sizes[blob] for blob in blobs) <= 41 * MB


def test_a_working_plan_is_asked_about_once() -> None:
    world = serving()
    world.wait(60)
    world.control("replan")
    assert len(asked(world)) == 1
    assert len(world.commands("a", KeepBlobs)) == 1


def test_an_answer_for_a_plan_that_is_gone_is_dropped() -> None:
    world = World()
    world.hold = (PlanStandby,)
    world.serve(*NODES)
    (job,) = asked(world)
    standby = cold(job.problem, job.stages)
    world.kill("b")
    world.wait(30)
    assert not world.plan.ring
    world.event(StandbyPlanned("main", job.epoch, standby))
    assert kept(world) == {}


def test_a_new_plan_replaces_what_is_kept_and_frees_who_is_left_out() -> None:
    world = serving()
    assert kept(world)["c"]
    before = world.plan.epoch
    world.join("d")
    world.wait(5)
    world.control("apply", exclude=["c"])
    world.wait(5)
    assert world.plan.epoch != before
    assert "c" not in units_of(world)
    assert kept(world)["c"] == set()
    assert kept(world)["d"]
    assert len(asked(world)) == 2


def test_a_pipeline_without_nodes_keeps_nothing() -> None:
    world = serving()
    units = world.core.plane.pipeline.standby
    told = {effect.topic.split("/")[-2] for effect in units.give_up() if isinstance(effect, Publish)}
    assert told == {node for node, blobs in kept(world).items() if blobs}
    assert units.give_up() == units.node_returned("a") == []


def test_a_node_that_was_away_for_a_moment_is_told_again() -> None:
    world = serving()
    world.kill("b")
    world.nodes["b"].alive = True
    world.event(NodeSaid("b", make_heartbeat("b", world.nodes["b"].birth.incarnation)))
    first, second = world.commands("b", KeepBlobs)
    assert first == second
    world.event(NodeSaid("d", make_birth("d")))
    assert world.commands("d", KeepBlobs) == []


def test_a_failed_solve_is_said_and_the_plan_stays() -> None:
    world = World()
    world.hold = (PlanStandby,)
    world.serve(*NODES)
    (job,) = asked(world)
    effects = world.event(StandbyPlanned("main", job.epoch, (), "the solver is missing"))
    assert effects == [Note(f"no standby units for epoch {job.epoch}: the solver is missing", warning=True)]
    assert world.plan.ring
    assert world.event(JobFailed(0, "of nobody")) == []


def test_a_question_that_can_not_be_asked_is_given_up() -> None:
    world = serving()
    assert world.core.plane.pipeline.active
    plan = world.core.plane.pipeline.active.plan
    questions = 0

    def question() -> Problem:
        nonlocal questions
        questions += 1
        raise PlanningError("a pinned node is not here")

    units = StandbyUnits("main", (BLOB_URL,))
    assert units.ask(plan, question) == units.ask(plan, question) == []
    assert questions == 1
    (job,) = asked(world)
    without = replace(job.problem, devices=job.problem.devices[1:])
    assert StandbyUnits("main", (BLOB_URL,)).ask(plan, lambda: without) == []


def test_plan_shows_who_keeps_what_and_how_much_is_there() -> None:
    world = serving()
    reply = world.control("plan")
    assert reply
    assert reply.ok
    shown = reply.result["standby"]
    assert {one["node"] for one in shown} == {node for node, blobs in kept(world).items() if blobs}
    for one in shown:
        assert one["node_bytes"] > 0
        start, stop = units_of(world)[one["node"]]
        assert one["stop"] == start or one["start"] == stop, "it touches the node's own stage"
        assert one["units"]
    node = shown[0]["node"]
    beat = make_heartbeat(node, world.nodes[node].birth.incarnation)
    world.event(NodeSaid(node, replace(beat, standby_bytes=5 * MB)))
    reply = world.control("plan")
    assert reply
    assert {one["node_bytes_on_disk"] for one in reply.result["standby"] if one["node"] == node} == {5 * MB}
