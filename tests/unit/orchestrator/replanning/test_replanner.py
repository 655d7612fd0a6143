"""A working plan: when its ring breaks, when it is replaced, and whose it is."""

import pytest

from orchestrator.balancing.acceptance import judge
from orchestrator.effects import Halt, Publish, SolvePlan
from orchestrator.events import BusDown, BusUp, NodeSaid, PlanHeard
from orchestrator.timing import Timing
from schemas.codec import Flag
from schemas.messages import Epoch, NodeStatus, Plan, PrepareSegment, ReleaseSegment, StreamEnd, StreamError
from tests.support.orchestrating import World
from tests.support.scripted_nodes import MB, answer_text, make_manifest, make_submit

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
    request = world.ask(make_submit(patience_s=5.0))
    world.generate(request, 2)
    world.kill("b")
    world.wait(4.0)
    assert world.end(request) is None
    world.wait(4.0)
    error = world.end(request)
    assert isinstance(error, StreamError)
    assert "a node was lost" in error.reason
    assert "short by" in error.reason


def test_a_node_that_returns_in_time_saves_the_answer() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask(make_submit(patience_s=5.0))
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
    assert world.solves == 2


def test_a_join_is_used_in_mid_answer() -> None:
    world = World().serve("a", "b", "c", speed_flops=1e9)
    request = world.ask()
    world.generate(request, 2)
    world.join("fast", memory_mb=1000, speed_flops=1e11)
    world.wait(2.0)
    assert {stage.node for stage in world.plan.ring} == {"fast"}
    world.generate(request, 6, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 8)


def test_a_join_that_open_requests_lose_by_waits_until_nobody_reads() -> None:
    world = World().serve("a", "b", "c", speed_flops=1e9)
    request = world.ask(make_submit(max_tokens=200))
    world.generate(request, 198)
    world.join("d", memory_mb=400, speed_flops=1.2e9)
    world.wait(5.0)
    assert world.solves == 2
    assert world.plan.epoch.counter == 1
    world.generate(request, 2, flags=Flag.LENGTH)
    world.wait(1.0)
    assert "d" in {stage.node for stage in world.plan.ring}


def test_a_join_waits_until_nobody_reads_when_there_is_no_room_for_both_plans() -> None:
    world = World().serve("a", "b", "c", speed_flops=1e9)
    world.use_judge(judge)  # which looks at the best plan only
    request = world.ask()
    world.join("d", speed_flops=1e11)
    world.wait(5.0)
    assert world.solves == 2
    assert len(world.published(Plan)) == 1
    world.wait(5.0)
    assert world.solves == 2
    world.generate(request, 8, flags=Flag.LENGTH)
    world.wait(1.0)
    assert "d" in {stage.node for stage in world.plan.ring}


def roomy(world: World) -> World:
    """Nodes with room for two plans side by side."""
    return world.serve("a", memory_mb=2000, speed_flops=1e9)


def test_another_model_is_prepared_beside_a_working_plan_and_waits_for_open_requests() -> None:
    world = roomy(World(models={"tiny": make_manifest(), "other": make_manifest("other")}))
    request = world.ask(make_submit(1))
    world.join("b", memory_mb=2000, speed_flops=1e11)
    assert world.control("use_model", model="other") is None
    (prepare,) = world.commands("b", PrepareSegment)
    assert prepare.basis is None
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
    assert reply.result["model"] == "other"


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
    assert world.control("use_model", model="other") is None
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
    assert world.core.plane.pipelines.generation == 42


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
