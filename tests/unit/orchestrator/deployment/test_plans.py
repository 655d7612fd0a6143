"""The first plan: when it is made, rolled out, committed or given up."""

import itertools
from dataclasses import replace

import pytest

from orchestrator.deployment.plan_view import plan_view
from orchestrator.effects import Publish, SaveEpoch, SavePlan, SolvePlan
from orchestrator.events import JobFailed, NodeSaid
from orchestrator.planning.batches_in_flight import batches_in_flight
from schemas.codec import WIRE_DTYPES, activation_payload_bytes
from schemas.messages import (
    Epoch,
    NodeStatus,
    OpenRequest,
    Plan,
    PrepareProgress,
    PrepareSegment,
    ReleaseSegment,
    StreamError,
    StreamStatus,
    WireDtype,
)
from schemas.topics import PLAN
from tests.support.orchestrating import World, plan_quickly
from tests.support.scripted_nodes import (
    MB,
    ScriptedNode,
    answer_text,
    int8_in,
    make_birth,
    make_heartbeat,
    make_manifest,
    make_submit,
)

# --- the first plan ---------------------------------------------------------------------------------------------


def test_three_nodes_that_start_together_get_one_plan() -> None:
    world = World().up()
    for name in "abc":
        world.join(name)
        world.wait(0.3)
    world.wait(2.0)
    assert world.solves == 1
    assert {stage.node for stage in world.plan.ring} == {"a", "b", "c"}
    ranges = [(stage.start, stage.stop) for stage in world.plan.ring]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 6
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))


def test_the_plan_is_published_once_all_are_ready_retained_and_saved() -> None:
    world = World().up()
    world.join("a", "b", "c")
    for node in world.nodes.values():
        node.silent = True
    world.wait(3.0)
    assert world.published(Plan) == []
    prepares = {name: world.commands(name, PrepareSegment)[0] for name in world.plan_nodes()}
    for name, prepare in prepares.items():
        assert world.published(Plan) == []
        world.event(NodeSaid(name, world.nodes[name].ready(prepare)))
    commit = next(e for e in world.effects if isinstance(e, Publish) and PLAN.match(e.topic))
    assert commit.retain
    assert commit.qos == 1
    kinds = [type(e) for e in world.effects]
    assert kinds.index(SaveEpoch) < kinds.index(Publish), "an epoch is remembered before anybody hears of it"
    assert SavePlan in kinds


def test_commands_to_prepare_follow_the_plan() -> None:
    world = World(context_tokens=100, slots=3).serve("a", "b", "c")
    ring = world.plan.ring
    for index, stage in enumerate(ring):
        (prepare,) = world.commands(stage.node, PrepareSegment)
        assert prepare.stage == index
        assert prepare.ring == ring
        assert prepare.epoch == world.plan.epoch
        assert (prepare.context_tokens, prepare.slots, prepare.wire_dtype, prepare.chunk_tokens) == (
            100,
            3,
            "fp16",
            128,
        )
        assert 50 * MB < prepare.planned_bytes <= world.nodes[stage.node].birth.memory_bytes
        assert prepare.blob_urls == ("http://127.0.0.1:1/v1/blobs",)


@pytest.mark.parametrize(("chosen", "expected"), [(None, "fp32"), ("int8", "int8")])
def test_hidden_states_travel_as_the_model_wants_unless_somebody_chose(
    chosen: WireDtype | None, expected: WireDtype
) -> None:
    world = World(wire=chosen)
    world.model_wire = "fp32"
    problems = []
    world.solver = lambda problem: problems.append(problem) or plan_quickly(problem)  # type: ignore[func-returns-value]
    world.serve("a", "b", "c")
    assert world.plan.wire_dtype == expected
    assert {world.commands(node, PrepareSegment)[0].wire_dtype for node in "abc"} == {expected}
    assert problems[-1].activation_bytes == activation_payload_bytes(WIRE_DTYPES[expected], 1, make_manifest().width)


@pytest.mark.parametrize(("profile", "same_bits"), [("fast", False), ("steady", True), ("exact", False)])
def test_nodes_are_told_what_the_profile_means(profile: str, same_bits: bool) -> None:
    """Whether positions get the same bits in any run. Guesses are made in any."""
    world = World(models={"tiny": replace(make_manifest(), profile=profile, vocab_size=1024)}).serve("a", "b", "c")
    for node in world.plan_nodes():
        assert world.commands(node, PrepareSegment)[0].same_bits == same_bits
    world.ask()
    assert world.commands(world.plan.ring[-1].node, OpenRequest)[0].draft_tokens == 8


def test_every_stage_is_told_the_same_batches_and_so_are_people() -> None:
    problems = []
    world = World(context_tokens=50, slots=5)
    world.solver = lambda problem: problems.append(problem) or plan_quickly(problem)  # type: ignore[func-returns-value]
    world.serve("a", "b", "c")
    assert len(world.plan.ring) == 3
    (table,) = {world.commands(stage.node, PrepareSegment)[0].batches for stage in world.plan.ring}
    active = world.core.plane.pipeline.active
    assert active
    assert len(table) == 5
    assert table == batches_in_flight(problems[-1], active.plan.solution.stages)
    assert plan_view(active.plan, {}).batches == table


def test_people_are_told_how_many_blocks_keep_halves_and_what_each_stage_keeps() -> None:
    manifest = make_manifest().with_rounded_kv(int8_in(0, 3))
    world = World(context_tokens=50, slots=5, models={"tiny": manifest}).serve("a", "b", "c")
    active = world.core.plane.pipeline.active
    assert active
    view = plan_view(active.plan, {})
    assert (view.kv_dtype, view.kv_fp16_blocks) == ("int8", 2)
    kept = [unit.kv_bytes_per_token for unit in manifest.units]
    assert [stage.kv_bytes for stage in view.stages] == [
        250 * sum(kept[stage.start : stage.stop]) for stage in view.stages
    ]
    assert len({stage.kv_bytes for stage in view.stages}) > 1


def test_min_nodes_holds_the_first_plan_back_only() -> None:
    world = World(min_nodes=3).up()
    world.join("a", "b", memory_mb=400)
    world.wait(3.0)
    assert world.solves == 0
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.code == "not_ready"
    assert "waiting for 3 nodes, 2 here" in error.reason
    world.join("c", memory_mb=400)
    world.wait(1.0)
    assert world.plan.ring
    world.kill(world.plan.ring[0].node)
    world.wait(2.0)
    assert world.plan.ring, "a loss must not wait for a third node"


def test_a_ghost_is_not_planned_with() -> None:
    world = World().up()
    for name in "abc":
        world.event(NodeSaid(name, make_birth(name, memory_mb=400), retained=True))
        world.event(NodeSaid(name, NodeStatus(node=name, incarnation=1, online=True), retained=True))
    world.wait(0.2)
    world.event(NodeSaid("b", make_heartbeat("b")))
    world.nodes["b"] = ScriptedNode(make_birth("b", memory_mb=400))
    world.wait(3.0)
    assert {stage.node for stage in world.plan.ring} == {"b"}


# --- no plan ----------------------------------------------------------------------------------------------------


def test_no_nodes_is_said() -> None:
    world = World().up()
    world.wait(2.0)
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.code == "no_nodes"
    assert error.reason == "no nodes: start one (linguabus node), or linguabus invite NAME"


def test_too_little_memory_says_how_much_is_missing() -> None:
    world = World().up()
    world.join("a", memory_mb=240)
    world.wait(2.0)
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.code == "no_memory"
    assert "short by" in error.reason


def test_who_waits_for_memory_is_told_that_a_plan_is_missing_and_why() -> None:
    world = World().up()
    world.join("a", memory_mb=10)
    world.wait(2.0)
    request = world.ask(make_submit(patience_s=60.0))
    world.wait(1.0)
    told = [message.waits_for for message in world.stream(request) if isinstance(message, StreamStatus)]
    assert told[-1].startswith("a plan: one embed unit needs ")


def test_no_model_is_said() -> None:
    world = World(model=None).up()
    world.join("a")
    world.wait(2.0)
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.code == "no_model"
    assert "linguabus model add" in error.reason


def test_a_model_that_cannot_be_opened_is_said() -> None:
    world = World(model="gone").up()
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert (error.code, error.reason) == ("no_model", "there is no model 'gone'")


def test_requests_wait_while_the_fleet_is_still_gathering() -> None:
    world = World().up()
    request = world.ask()
    assert world.end(request) is None
    world.join("a", "b", "c")
    world.wait(2.0)
    world.generate(request, 3)
    assert world.text(request) == answer_text(5, 3)


def test_a_planner_error_is_said_and_the_next_change_tries_again() -> None:
    world = World().up()
    world.hold = (SolvePlan,)
    world.join("a", "b", "c")
    world.wait(2.0)
    world.hold = ()
    world.event(JobFailed(1, "glpsol crashed"))
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.reason == "glpsol crashed"
    world.join("d")
    world.wait(2.0)
    assert world.plan.ring


def test_a_node_that_goes_while_the_plan_is_made_is_not_in_it() -> None:
    world = World().up()
    world.hold = (SolvePlan,)
    world.join("a", "b", "c", "d")
    world.wait(2.0)
    job = next(e for e in world.effects if isinstance(e, SolvePlan))
    outcome = world.solver(job.problem)
    world.kill(outcome.nodes[0])
    world.hold = ()
    world.solved(job.job, outcome)
    world.wait(1.0)
    assert outcome.nodes[0] not in {stage.node for stage in world.plan.ring}


# --- failures on the way ----------------------------------------------------------------------------------------


def test_a_node_that_cannot_load_is_left_out_and_the_rest_serves() -> None:
    world = World().up()
    world.join("a", "b", "c", "d")
    world.nodes["b"].refuses = "disk full"
    world.wait(3.0)
    if not world.commands("b", PrepareSegment):
        pytest.fail("the plan should have asked b")
    failed = world.commands("b", PrepareSegment)[0].epoch
    assert world.plan.epoch > failed
    assert "b" not in {stage.node for stage in world.plan.ring}
    for name in world.nodes:
        if any(prepare.epoch == failed for prepare in world.commands(name, PrepareSegment)):
            assert failed in [release.epoch for release in world.commands(name, ReleaseSegment)]


def test_the_nodes_reason_reaches_the_reader_when_nobody_else_can() -> None:
    world = World().up()
    world.join("a", "b", "c")
    world.nodes["b"].refuses = "disk full"
    request = world.ask()
    world.wait(3.0)
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert error.code == "no_memory"
    assert "b: disk full" in error.reason
    world.nodes["b"].refuses = ""
    world.wait(31.0)
    assert world.plan.ring, "the node gets another chance"


def test_a_restarted_node_gets_another_chance_at_once() -> None:
    world = World().up()
    world.join("a", "b", "c")
    world.nodes["b"].refuses = "disk full"
    world.wait(3.0)
    assert not world.published(Plan)
    world.join("b", incarnation=2)
    world.wait(2.0)
    assert world.plan.ring


def test_a_node_that_prepares_in_silence_fails_but_progress_counts() -> None:
    world = World().up()
    world.join("a", "b", "c")
    world.nodes["b"].silent = True
    world.wait(50.0)
    (prepare,) = world.commands("b", PrepareSegment)
    progress = PrepareProgress(
        node="b", pipeline="main", epoch=prepare.epoch, stage=prepare.stage, done_bytes=1, total_bytes=9
    )
    world.event(NodeSaid("b", progress))
    status = world.control("status")
    assert status
    assert status.result["progress"] == {"b": {"done_bytes": 1, "total_bytes": 9}}
    world.wait(50.0)
    assert not world.commands("b", ReleaseSegment)
    world.wait(15.0)
    assert world.commands("b", ReleaseSegment)


def test_a_node_lost_while_preparing_ends_the_roll_out() -> None:
    world = World().up()
    world.join("a", "b", "c", "d")
    for node in world.nodes.values():
        node.silent = True
    world.wait(2.0)
    lost, *others = world.plan_nodes()
    for node in world.nodes.values():
        node.silent = False
    world.kill(lost)
    world.wait(2.0)
    assert lost not in {stage.node for stage in world.plan.ring}
    assert all(world.commands(name, ReleaseSegment) for name in others)


def test_what_another_epoch_or_start_reports_is_ignored() -> None:
    world = World().up()
    world.join("a", "b", "c")
    for node in world.nodes.values():
        node.silent = True
    world.wait(2.0)
    for name in world.plan_nodes():
        (prepare,) = world.commands(name, PrepareSegment)
        node = world.nodes[name]
        stale = make_birth(name, incarnation=0)
        world.event(NodeSaid(name, ScriptedNode(stale).ready(prepare)))
        other = PrepareSegment(**{**_fields(prepare), "epoch": Epoch(generation=1, counter=77)})
        world.event(NodeSaid(name, node.ready(other)))
    assert not world.published(Plan)


def _fields(message: PrepareSegment) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__}
