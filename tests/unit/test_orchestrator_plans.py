"""When a plan is made, rolled out, committed, given up and replaced."""

import pytest

from orchestrator.config import Timing
from orchestrator.events import (
    BuildSegments,
    BusDown,
    BusUp,
    Halt,
    JobFailed,
    NodeSaid,
    Note,
    PlanHeard,
    Publish,
    SaveEpoch,
    SaveModelChoice,
    SaveNode,
    SavePlan,
    SolvePlan,
    Stopping,
)
from orchestrator.planning.solution import Infeasible
from schemas.codec import Flag
from schemas.messages import (
    Epoch,
    NodeStatus,
    Plan,
    PrepareProgress,
    PrepareSegment,
    RefuseNode,
    RegisterAgain,
    ReleaseSegment,
    StreamEnd,
    StreamError,
)
from schemas.topics import PLAN
from tests.support.orchestrating import (
    MB,
    ScriptedNode,
    World,
    answer_text,
    make_birth,
    make_heartbeat,
    make_manifest,
    make_submit,
)


def solves(world: World) -> int:
    return sum(isinstance(effect, SolvePlan) for effect in world.effects)


def cover(plan: Plan) -> list[tuple[int, int]]:
    return [(stage.start, stage.stop) for stage in plan.ring]


# --- the first plan ---------------------------------------------------------------------------------------------


def test_three_nodes_that_start_together_get_one_plan() -> None:
    world = World().up()
    for name in "abc":
        world.join(name)
        world.wait(0.3)
    world.wait(2.0)
    assert solves(world) == 1
    assert {stage.node for stage in world.plan.ring} == {"a", "b", "c"}
    ranges = cover(world.plan)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 6
    assert all(one[1] == other[0] for one, other in zip(ranges, ranges[1:], strict=False))


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
    assert sum(kind is SaveNode for kind in kinds) == 3


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


def test_min_nodes_holds_the_first_plan_back_only() -> None:
    world = World(min_nodes=3).up()
    world.join("a", "b", memory_mb=400)
    world.wait(3.0)
    assert solves(world) == 0
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
    assert error.reason == "no nodes: start one with linguabus-node --broker URL"


def test_too_little_memory_says_how_much_is_missing() -> None:
    world = World().up()
    world.join("a", memory_mb=120)
    world.wait(2.0)
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.code == "no_memory"
    assert "short by" in error.reason


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
    progress = PrepareProgress(node="b", pipeline="main", epoch=prepare.epoch, done_bytes=1, total_bytes=9)
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


# --- a ring that breaks -----------------------------------------------------------------------------------------


def test_requests_go_on_in_the_next_ring_with_the_same_text() -> None:
    world = World(timing=Timing()).serve("a", "b", "c", "d")
    request = world.ask(make_submit(max_tokens=20))
    world.generate(request, 7)
    old = world.plan
    world.kill(old.ring[1].node)
    world.wait(3.0)
    assert world.plan.epoch > old.epoch
    assert old.ring[1].node not in {stage.node for stage in world.plan.ring}
    assert world.end(request) is None
    world.generate(request, 13, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 20)
    assert isinstance(world.end(request), StreamEnd)


def test_a_broken_ring_is_taken_down_before_the_next_is_prepared() -> None:
    world = World().serve("a", "b", "c", "d")
    world.kill(world.plan.ring[0].node)
    world.wait(3.0)
    first, down, second = world.published(Plan)
    assert first.ring
    assert not down.ring
    assert second.ring
    assert first.epoch < down.epoch < second.epoch
    order = [
        e.message for e in world.effects if isinstance(e, Publish) and isinstance(e.message, Plan | PrepareSegment)
    ]
    prepared_second = [m for m in order if isinstance(m, PrepareSegment) and m.epoch == second.epoch]
    assert order.index(down) < order.index(prepared_second[0])


def test_a_short_disconnection_breaks_nothing() -> None:
    world = World().serve("a", "b", "c")
    name = world.plan.ring[0].node
    world.event(NodeSaid(name, NodeStatus(node=name, incarnation=1, online=False, reason="lost")))
    world.wait(0.2)
    world.event(NodeSaid(name, NodeStatus(node=name, incarnation=1, online=True)))
    world.wait(5.0)
    assert len(world.published(Plan)) == 1


def test_a_node_that_started_again_breaks_the_ring_at_once() -> None:
    world = World().serve("a", "b", "c")
    name = world.plan.ring[0].node
    world.hold = (SolvePlan,)
    world.join(name, incarnation=2)
    assert not world.plan.ring


def test_without_enough_nodes_open_requests_end_after_a_while() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.generate(request, 2)
    world.kill("b")
    world.wait(3.0)
    assert world.end(request) is None
    world.wait(5.0)
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert "a node was lost" in error.reason
    assert "short by" in error.reason


def test_a_node_that_returns_in_time_saves_the_answer() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.generate(request, 2)
    world.kill("b")
    world.wait(2.0)
    world.join("b", incarnation=2)
    world.wait(2.0)
    world.generate(request, 6, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 8)


def test_silence_is_a_loss_too() -> None:
    world = World().serve("a", "b", "c", "d")
    lost = world.plan.ring[0].node
    world.nodes[lost].alive = False
    world.wait(9.0)
    assert len(world.published(Plan)) == 1
    world.wait(6.0)
    assert lost not in {stage.node for stage in world.plan.ring}


def test_no_node_is_lost_while_the_broker_is_away() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.generate(request, 2)
    world.event(BusDown())
    for node in world.nodes.values():
        node.alive = False
    world.wait(60.0)
    for node in world.nodes.values():
        node.alive = True
    world.event(BusUp(reconnect=True))
    world.wait(5.0)
    assert world.plan.ring
    assert len({plan.epoch for plan in world.published(Plan)}) == 1
    assert len(world.published(Plan)) == 2, "the broker may have forgotten what it retained"
    assert world.resends()[0].position == 5 + 2


# --- a plan that replaces a working one -------------------------------------------------------------------------


def test_a_join_replans_when_idle_and_worth_it() -> None:
    world = World().serve("a", "b", "c", speed_flops=1e9)
    world.join("fast", memory_mb=1000, speed_flops=1e11)
    world.wait(2.0)
    assert {stage.node for stage in world.plan.ring} == {"fast"}


def test_a_join_that_gains_little_changes_nothing() -> None:
    world = World().serve("a", "b", "c")
    world.join("d")
    world.wait(5.0)
    assert len(world.published(Plan)) == 1
    assert solves(world) == 2


def test_a_join_waits_until_nobody_reads() -> None:
    world = World().serve("a", "b", "c", speed_flops=1e9)
    request = world.ask()
    world.join("fast", memory_mb=1000, speed_flops=1e11)
    world.wait(5.0)
    assert solves(world) == 1
    world.generate(request, 8, flags=Flag.LENGTH)
    world.wait(1.0)
    assert {stage.node for stage in world.plan.ring} == {"fast"}


def roomy(world: World) -> World:
    """Nodes with room for two plans side by side."""
    return world.serve("a", memory_mb=2000, speed_flops=1e9)


def test_beside_a_working_plan_the_new_one_waits_for_open_requests() -> None:
    world = roomy(World())
    request = world.ask(make_submit(1))
    world.join("b", memory_mb=2000, speed_flops=1e11)
    assert world.control("replan") is None
    (prepare,) = world.commands("b", PrepareSegment)
    assert world.plan.ring[0].node == "a", "the old plan stays in force"
    late = world.ask(make_submit(2))
    assert late not in world.nodes["a"].open
    world.generate(request, 8, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 8)
    assert world.plan.epoch == prepare.epoch
    assert late in world.nodes["b"].open
    reply = world.reply()
    assert reply
    assert reply.ok
    assert reply.result["changed"] is True


def test_planned_bytes_beside_a_working_plan_count_both() -> None:
    world = roomy(World())
    world.join("b", memory_mb=1000, speed_flops=1e10)
    alone = world.commands("a", PrepareSegment)[0].planned_bytes
    world.models["tiny"] = make_manifest(block_bytes=11 * MB)
    world.nodes["b"].refuses = "no"  # so that a gets the model again
    world.ask()
    world.control("use_model", model="tiny")
    world.wait(1.0)
    beside = [p for p in world.commands("a", PrepareSegment) if p.epoch > world.plan.epoch or p.planned_bytes > alone]
    assert beside
    assert beside[-1].planned_bytes > alone + 50 * MB


def test_without_room_for_both_the_old_plan_goes_first_once_it_is_idle() -> None:
    models = {"tiny": make_manifest(), "other": make_manifest("other", block_bytes=9 * MB)}
    world = World(models=models).serve("a", "b", "c")
    request = world.ask(make_submit(1))
    assert world.control("use_model", model="other")
    waiting = world.ask(make_submit(2))
    assert world.plan.model == "tiny"
    assert waiting not in world.nodes[world.plan.ring[0].node].open
    world.generate(request, 8, flags=Flag.LENGTH)
    assert [bool(plan.ring) for plan in world.published(Plan)] == [True, False, True]
    assert world.plan.model == "other"
    assert world.plan.epoch == max(plan.epoch for plan in world.published(Plan))
    assert waiting in world.nodes[world.plan.ring[0].node].open


def test_a_failed_replan_leaves_the_working_plan() -> None:
    world = roomy(World())
    world.join("b", memory_mb=2000, speed_flops=1e11)
    world.nodes["b"].refuses = "disk full"
    world.wait(2.0)
    assert world.commands("b", ReleaseSegment)
    assert len(world.published(Plan)) == 1
    request = world.ask()
    assert request in world.nodes["a"].open


def test_a_ring_that_breaks_while_its_successor_is_prepared_ends_both() -> None:
    world = roomy(World())
    world.join("b", memory_mb=2000, speed_flops=1e11)
    world.nodes["b"].silent = True
    world.ask()
    world.control("replan")
    (prepare,) = world.commands("b", PrepareSegment)
    world.nodes["b"].silent = False
    world.kill("a")
    world.wait(2.0)
    assert prepare.epoch in [release.epoch for release in world.commands("b", ReleaseSegment)]
    assert world.plan.ring[0].node == "b"
    assert world.plan.epoch > prepare.epoch


# --- generations ------------------------------------------------------------------------------------------------


def old_plan(generation: int, ring: bool = True) -> Plan:
    world = World().serve("a", "b", "c")
    stages = world.plan.ring if ring else ()
    return Plan(
        pipeline="main", epoch=Epoch(generation=generation, counter=3), model="tiny", context_tokens=8, slots=1,
        wire_dtype="fp16", ring=stages,
    )  # fmt: skip


def test_a_start_goes_above_the_retained_plan_and_takes_its_ring_down() -> None:
    world = World().up()
    world.event(PlanHeard(old_plan(41), retained=True))
    assert not world.plan.ring
    assert world.plan.epoch == Epoch(generation=42, counter=1)
    world.join("a", "b", "c")
    world.wait(2.0)
    assert world.plan.epoch.generation == 42


def test_an_empty_retained_plan_is_only_passed() -> None:
    world = World().up()
    world.event(PlanHeard(old_plan(41, ring=False), retained=True))
    assert not world.published(Plan)
    assert world.core.director.generation == 42


def test_our_own_plan_comes_back_and_means_nothing() -> None:
    world = World().serve("a", "b", "c")
    assert world.event(PlanHeard(world.plan, retained=False)) == []
    assert world.event(PlanHeard(world.plan, retained=True)) == []


@pytest.mark.parametrize("generation", [1, 2])
def test_another_orchestrator_that_took_over_ends_this_one(generation: int) -> None:
    world = World().serve("a", "b", "c")
    rival = old_plan(generation)
    effects = world.event(PlanHeard(Plan(**{**_plan_fields(rival), "slots": 7}), retained=False))
    assert any(isinstance(effect, Halt) for effect in effects)


def _plan_fields(plan: Plan) -> dict[str, object]:
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    return {**fields, "epoch": Epoch(generation=plan.epoch.generation, counter=99)}


def test_an_orchestrator_of_the_past_is_ignored() -> None:
    world = World().serve("a", "b", "c")
    assert world.event(PlanHeard(old_plan(0), retained=False)) == []


# --- the end, and control ---------------------------------------------------------------------------------------


def test_a_clean_stop_tells_clients_and_takes_the_pipeline_down() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.event(Stopping())
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert "stopped" in error.reason
    assert not world.plan.ring
    assert all(request not in node.open for node in world.nodes.values())


def test_a_stop_in_mid_roll_out_releases_it() -> None:
    world = World().up()
    world.join("a", "b", "c")
    for node in world.nodes.values():
        node.silent = True
    world.wait(2.0)
    world.event(Stopping())
    assert all(world.commands(name, ReleaseSegment) for name in "abc")


def test_versions_are_refused_and_unknown_nodes_asked_to_register() -> None:
    world = World().up()
    world.event(NodeSaid("old", make_birth("old", package_version="0.0.1")))
    assert world.commands("old", RefuseNode)
    world.event(NodeSaid("new", make_heartbeat("new")))
    assert world.commands("new", RegisterAgain)


def test_control_shows_nodes_plan_and_status() -> None:
    world = World().serve("a", "b", "c")
    nodes, plan, status = (world.control(op, n) for n, op in enumerate(("nodes", "plan", "status")))
    assert nodes
    assert [row["node"] for row in nodes.result["nodes"]] == ["a", "b", "c"]
    assert plan
    assert plan.result["state"] == "serving"
    assert plan.result["epoch"] == str(world.plan.epoch)
    assert plan.result["stages"][0]["units"].startswith("embed")
    assert plan.result["stages"][-1]["units"].endswith("head")
    assert plan.result["stages"][0]["rss_bytes"] == MB
    assert plan.result["predicted_tokens_per_s"] > 0
    assert status
    assert (status.result["state"], status.result["nodes"], status.result["model"]) == ("serving", 3, "tiny")


def test_control_without_a_plan_says_why() -> None:
    world = World().up()
    world.wait(2.0)
    reply = world.control("plan")
    assert reply
    assert not reply.ok
    assert reply.reason.startswith("no nodes")


def test_replan_that_changes_nothing_says_so() -> None:
    world = World().serve("a", "b", "c")
    reply = world.control("replan")
    assert reply
    assert reply.ok
    assert reply.result == {"changed": False}


def test_replan_without_a_solution_says_why_and_keeps_the_plan() -> None:
    world = World().serve("a", "b", "c")
    world.solver = lambda problem: Infeasible("needs 3 GB, has 2 GB, short by 1 GB", 1, "add a node")
    reply = world.control("replan")
    assert reply
    assert not reply.ok
    assert "short by 1 GB" in reply.reason
    assert world.plan.ring


def test_use_model_answers_when_the_model_is_open_and_is_remembered() -> None:
    world = World(models={"tiny": make_manifest(), "other": make_manifest("other")}).serve("a", "b", "c")
    reply = world.control("use_model", model="other")
    assert reply
    assert reply.ok
    assert SaveModelChoice("other") in world.effects
    world.wait(1.0)
    assert world.plan.model == "other"
    missing = world.control("use_model", 98, model="gone")
    assert missing
    assert not missing.ok
    assert world.plan.model == "other"


def test_the_model_of_the_command_line_is_not_remembered() -> None:
    assert not [e for e in World().serve("a", "b", "c").effects if isinstance(e, SaveModelChoice)]


def test_use_model_ends_the_time_without_one() -> None:
    world = World(model=None).up()
    world.join("a", "b", "c")
    world.wait(2.0)
    world.control("use_model", model="tiny")
    world.wait(1.0)
    assert world.plan.ring


@pytest.mark.parametrize("arguments", [{}, {"model": 3}, {"model": ""}])
def test_use_model_wants_a_name(arguments: dict[str, object]) -> None:
    reply = World().up().control("use_model", **arguments)
    assert reply
    assert not reply.ok


def test_an_unknown_operation_lists_the_known_ones() -> None:
    reply = World().up().control("explode")
    assert reply
    assert "use one of nodes, plan" in reply.reason


def test_building_that_fails_is_said() -> None:
    world = World().up()
    world.hold = (BuildSegments,)
    world.join("a", "b", "c")
    world.wait(2.0)
    world.event(JobFailed(1, "blob missing"))
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert error.reason == "blob missing"
    assert any(isinstance(e, Note) and "blob missing" in e.text for e in world.effects)
