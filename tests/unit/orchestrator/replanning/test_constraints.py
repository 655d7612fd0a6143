"""Objective and constraints: from arguments, and in previewed and applied plans."""

import json
from dataclasses import fields

import pytest

from orchestrator.commands.plan import _constraints as constraints_of
from orchestrator.commands.plan import command
from orchestrator.effects import BuildSegments, Note, PreviewPlan, SaveConstraints, SolvePlan, TellHistory
from orchestrator.events import NodeSaid
from orchestrator.planning.errors import BadConstraint
from orchestrator.planning.problem import NodeLimit, Objective, Pin
from orchestrator.replanning.constraints import apply_command, parse_units, planner_constraints
from schemas.contract import dump, load
from schemas.errors import MemberError
from schemas.messages import PlanConstraints, PrepareSegment
from tests.support.orchestrating import World, begun, ends_well


@pytest.fixture
def world() -> World:
    return World().serve("a", "b", "c", "d", memory_mb=2000)


def nodes_of(world: World) -> list[str]:
    return [stage.node for stage in world.plan.ring]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("embed", [(0, 1)]), ("head", [(5, 6)]), ("ends", [(0, 1), (5, 6)]), ("0-3", [(1, 5)]), ("2", [(3, 4)])],
)
def test_units(text: str, expected: list[tuple[int, int]]) -> None:
    assert parse_units(text, 6) == expected


@pytest.mark.parametrize("text", ["", "tail", "3-1", "4", "0-4", "-1", "1-", "0x1"])
def test_units_that_are_not_there(text: str) -> None:
    with pytest.raises(BadConstraint):
        parse_units(text, 6)


def test_constraints_survive_the_way_through_json() -> None:
    constraints = PlanConstraints(
        objective="throughput", exclude=("a",), pins=(("ends", "b"),), max_memory_mb=(("c", 900),), context_tokens=512
    )
    assert load(PlanConstraints, json.loads(json.dumps(dump(constraints)))) == constraints
    rules = planner_constraints(constraints, 6)
    assert rules.exclude == {"a"}
    assert rules.pins == (Pin("b", 0, 1), Pin("b", 5, 6))
    assert rules.limits == (NodeLimit("c", max_memory_bytes=900_000_000),)


def test_a_pin_knows_its_option_and_the_command_that_takes_it_back_and_nothing_else() -> None:
    line = (
        "--objective throughput --exclude a --exclude b --pin ends=c --pin 0-2=d --max-memory c=900"
        " --min-battery 30 --only-on-charger --context 512"
    )
    context = command.commands["apply"].make_context("apply", line.split())
    wanted = constraints_of({member.name: context.params[member.name] for member in fields(PlanConstraints)})
    assert apply_command(wanted) == f"linguabus plan apply {line}"
    first, last, blocks = planner_constraints(wanted, 6).pins
    assert (first.said, first.undo) == (last.said, last.undo)
    assert (first.said, blocks.said) == ("--pin ends=c", "--pin 0-2=d")
    assert blocks.undo == f"linguabus plan apply {line}".replace(" --pin 0-2=d", "")
    assert apply_command(PlanConstraints()) == "linguabus plan apply"


@pytest.mark.parametrize(
    "arguments",
    [
        {"colour": "red"}, {"objective": "fame"}, {"objective": []}, {"exclude": "a"}, {"exclude": [1]},
        {"pins": ["a"]},
        {"pins": [[1, "a"]]}, {"pins": [["embed", "a b"]]}, {"max_memory_mb": [["a", "9"]]},
        {"max_memory_mb": [["a", True]]}, {"max_memory_mb": [["a", 0]]}, {"context_tokens": 1}, {"context_tokens": "9"},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(arguments: dict[str, object]) -> None:
    with pytest.raises(MemberError):
        load(PlanConstraints, arguments)


def test_a_preview_changes_nothing(world: World) -> None:
    before = world.plan
    reply = world.control("preview", exclude=nodes_of(world))
    assert reply
    assert reply.ok
    said = reply.result["explanation"]
    assert said["feasible"]
    assert not {node["node"] for node in said["nodes"]} & set(nodes_of(world))
    world.wait(5.0)
    assert world.plan == before
    assert world.core.plane.pipeline.constraints == PlanConstraints()


def test_a_preview_without_a_plan_says_what_would_help(world: World) -> None:
    reply = world.control("preview", exclude=["a", "b", "c", "d"])
    assert reply
    assert reply.ok
    assert not reply.result["explanation"]["feasible"]
    assert reply.result["explanation"]["smallest_fix"]


def test_apply_puts_the_plan_in_force_and_keeps_the_constraints(world: World) -> None:
    unwanted = nodes_of(world)[0]
    world.control("apply", exclude=[unwanted])
    world.wait(3.0)
    reply = world.reply()
    assert reply
    assert reply.ok
    assert reply.result == {"changed": True}
    assert unwanted not in nodes_of(world)
    (saved,) = [effect for effect in world.effects if isinstance(effect, SaveConstraints)]
    assert saved.constraints == PlanConstraints(exclude=(unwanted,))
    world.join("e", memory_mb=2000, speed_flops=1e12)
    world.wait(5.0)
    assert unwanted not in nodes_of(world)


def epochs_prepared(world: World) -> list[str]:
    """The epochs that nodes were told to prepare, in order."""
    commands = (command for name in world.nodes for command in world.commands(name, PrepareSegment))
    return sorted({str(command.epoch) for command in commands})


@pytest.mark.parametrize("held", [SolvePlan, BuildSegments])
def test_constraints_given_while_a_ring_stands_still_are_in_the_next_plan_at_one_rollout(
    world: World, held: type
) -> None:
    request, lost = begun(world), nodes_of(world)[0]
    pinned, other = sorted(set(world.nodes) - {lost})[:2]
    world.hold = (held, PreviewPlan)
    prepared = epochs_prepared(world)
    world.kill(lost)
    world.wait(1.0)
    under_way = [effect for effect in world.effects if isinstance(effect, held)][-1]
    assert world.control("apply", pins=[["ends", pinned], ["0-3", other]]) is None
    world.hold = ()
    if isinstance(under_way, SolvePlan):
        wanted = [effect for effect in world.effects if isinstance(effect, SolvePlan)][-1]
        world.solved(under_way.job, world.solver(under_way.problem))
        world.solved(wanted.job, world.solver(wanted.problem))
    else:
        wanted = [effect for effect in world.effects if isinstance(effect, BuildSegments)][-1]
        for build in (under_way, wanted):
            for event in world._follow(build):
                world.event(event)
    assert wanted is not under_way
    assert nodes_of(world) == [pinned, other, pinned]
    assert epochs_prepared(world) == [*prepared, str(world.plan.epoch)]
    reply = world.reply()
    assert reply
    assert reply.result == {"changed": True}
    ends_well(world, request)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_rollout_that_readers_wait_for_goes_on_once_a_part_is_loaded_and_else_is_begun_anew(is_loaded: bool) -> None:
    world = World().serve("a", "b", "c", "d")
    request, before = begun(world), world.plan.context_tokens
    lost, taker, *others = sorted(set(world.nodes), key=lambda name: name != nodes_of(world)[0])
    for name in (taker, *others):
        world.nodes[name].silent = name != taker or not is_loaded
    world.kill(lost)
    world.wait(1.0)
    assert world.control("apply", context_tokens=128) is None
    for name in (taker, *others):
        world.nodes[name].silent = False
        newest = world.commands(name, PrepareSegment)[-1]
        for said in world.nodes[name].react(newest):
            world.event(NodeSaid(name, said))
    assert world.plan.context_tokens == (before if is_loaded else 128)
    given_up = [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == "given_up"]
    assert [text.rpartition(": ")[2] for text in given_up] == ["other constraints are to be respected"] * (
        not is_loaded
    )
    ends_well(world, request)
    world.wait(2.0)
    assert world.plan.context_tokens == 128
    reply = world.reply()
    assert reply
    assert reply.result == {"changed": True}


def test_pins_put_both_ends_on_one_node(world: World) -> None:
    world.control("apply", pins=[["ends", "b"], ["0-3", "c"]])
    world.wait(3.0)
    assert nodes_of(world) == ["b", "c", "b"]
    assert [prepare.stage for prepare in world.commands("b", PrepareSegment)][-2:] == [0, 2]


def test_what_can_not_be_applied_is_not_remembered(world: World) -> None:
    before = world.plan
    reply = world.control("apply", exclude=["a", "b", "c", "d"])
    assert reply
    assert not reply.ok
    assert "excluded" in reply.reason
    assert world.core.plane.pipeline.constraints == PlanConstraints()
    assert world.plan == before


def test_the_objective_and_the_context_are_those_of_the_constraints(world: World) -> None:
    world.control("apply", objective="throughput", context_tokens=64)
    world.wait(3.0)
    active = world.core.plane.pipeline.active
    assert active
    assert active.plan.solution.objective is Objective.THROUGHPUT
    assert active.plan.context_tokens == 64


@pytest.mark.parametrize("operation", ["preview", "apply"])
def test_bad_constraints_are_refused_in_one_line(world: World, operation: str) -> None:
    for arguments in ({"objective": "fame"}, {"pins": [["0-99", "a"]]}):
        reply = world.control(operation, **arguments)
        assert reply
        assert not reply.ok
        assert "\n" not in reply.reason


def test_a_preview_needs_nodes_and_a_model() -> None:
    reply = World(model=None).up().control("preview")
    assert reply
    assert not reply.ok
    reply = World().up().control("preview")
    assert reply
    assert not reply.ok


def test_history_is_told_by_who_keeps_it(world: World) -> None:
    world.control("history", limit=5)
    assert [effect.limit for effect in world.effects if isinstance(effect, TellHistory)] == [5]
    reply = world.control("history", limit=0)
    assert reply
    assert not reply.ok
