"""Who is in which pipeline: no node in two, the same for the same fleet, changed only when that pays."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.pipelines.partition import assign, divide
from orchestrator.pipelines.partition_schedule import PartitionSchedule
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Constraints, Pin
from schemas.codec import Flag
from schemas.messages import PlanConstraints, StreamEnd
from tests.support.fleets import device, fleet
from tests.support.orchestrating import World
from tests.support.scripted_nodes import answer_text, make_submit, room_for
from tests.support.strategies import examples

NODES = "abcdefgh"
GROUPS = st.lists(st.sampled_from(range(5)), min_size=8, max_size=8).map(
    lambda places: [
        frozenset(node for node, place in zip(NODES, places, strict=True) if place == group)
        for group in range(4)
        if group in places
    ]
)


# --- dividing -----------------------------------------------------------------------------------------------------


@examples(25)
@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 5.0]), st.sampled_from([200, 700, 1300])), min_size=1, max_size=6),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(0, 2),
)
def test_each_node_is_in_one_group_at_most(devices: list[tuple[float, int]], pipelines: int | None, kept: int) -> None:
    problem = fleet(*(device(name, *figures) for name, figures in zip(NODES, devices, strict=False)))
    first = divide(problem, (), pipelines=pipelines, margin=0.05)
    again = divide(problem, first.groups[:kept], pipelines=pipelines, margin=0.05)
    for division in (first, again):
        nodes = [node for group in division.groups for node in group]
        assert len(set(nodes)) == len(nodes)
        assert set(nodes) <= {device.name for device in problem.devices}
        assert pipelines is None or len(division.groups) <= pipelines
    assert divide(problem, (), pipelines=pipelines, margin=0.05) == first
    assert divide(problem, first.groups, pipelines=pipelines, margin=0.05).groups == first.groups


def test_what_works_is_kept_unless_another_division_gives_clearly_more() -> None:
    alike = fleet(*(device(name, 2.0, 700) for name in "abcd"))
    odd = (frozenset("ac"), frozenset("bd"))
    assert divide(alike, odd, pipelines=None, margin=0.05).groups == odd
    fast = fleet(*(device(name, speed, 700) for name, speed in zip("abcd", (1.0, 1.0, 9.0, 9.0), strict=True)))
    assert set(divide(fast, odd, pipelines=None, margin=0.05).groups) != set(odd)


def test_nodes_that_are_left_form_pipelines_beside_those_at_work() -> None:
    problem = fleet(*(device(name, 2.0, 700) for name in "abcdef"))
    kept = (frozenset("ad"),)
    division = divide(problem, kept, pipelines=None, margin=0.05)
    assert division.groups[0] == kept[0]
    assert sorted(len(group) for group in division.groups) == [2, 2, 2]


def test_nothing_comes_of_a_fleet_that_is_too_small_and_pins_belong_to_one_pipeline() -> None:
    assert divide(fleet(device("a", 1.0, 300)), (), pipelines=None, margin=0.05).groups == ()
    pinned = fleet(*(device(name, 2.0, 700) for name in "abcd"))
    object.__setattr__(pinned, "constraints", Constraints(pins=(Pin("a", 0, 1),)))
    with pytest.raises(PlanningError):
        divide(pinned, (), pipelines=None, margin=0.05)


# --- names --------------------------------------------------------------------------------------------------------


@given(GROUPS, GROUPS)
def test_every_group_gets_a_name_of_its_own(groups: list[frozenset[str]], at_work: list[frozenset[str]]) -> None:
    working = dict(zip(("main", "main-2", "main-3", "main-4"), at_work, strict=False))
    given_names = assign(groups, working, "main")
    assert sorted(given_names.values(), key=sorted) == sorted(groups, key=sorted)
    assert assign(groups, working, "main") == given_names
    for name, group in working.items():
        if group in groups:
            assert given_names[name] == group


def test_the_service_has_the_first_name() -> None:
    assert assign([frozenset("a"), frozenset("b")], {"main": frozenset()}, "main") == {
        "main": frozenset("a"),
        "main-2": frozenset("b"),
    }


# --- when ---------------------------------------------------------------------------------------------------------


def test_the_fleet_is_divided_once_it_has_settled() -> None:
    divider = PartitionSchedule(0.5)
    divider.start(11.0)
    divider.notice("one", 10.0)
    assert divider.next_deadline_s() == 11.0
    divider.notice("two", 10.8)
    assert divider.next_deadline_s() == pytest.approx(11.3)
    divider.begin(1)
    divider.notice("three", 12.0)
    assert not divider.is_due(13.0), "one at a time"
    assert not divider.end()
    assert divider.is_due(13.0)


def test_a_node_that_comes_back_at_once_changes_nothing() -> None:
    divider = PartitionSchedule(0.5)
    divider.notice("all", 0.0)
    divider.begin(None)
    divider.notice("one less", 1.0)
    divider.notice("all", 1.2)
    assert divider.next_deadline_s() == math.inf
    assert not divider.pending


# --- over time ----------------------------------------------------------------------------------------------------


def check(world: World) -> None:
    """No node is used by two pipelines, and none by one that it was not given to without being given up."""
    used = [node for pipeline in world.core.plane.pipelines.all for node in pipeline.nodes_in_use()]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_answers_are_complete(seed: int) -> None:
    draw = random.Random(seed)
    world = World(slots=2)
    world.core.plane.pipelines.use_constraints(PlanConstraints(objective="throughput"))
    world.up()
    half_mb = room_for(head=1, block=2)
    requests: list[str] = []
    for step in range(30):
        here = [name for name, node in world.nodes.items() if node.alive]
        away = [name for name in NODES[:6] if name not in here]
        match draw.choice(["join", "join", "kill", "ask", "ask", "generate", "generate", "wait", "constrain"]):
            case "join" if away:
                world.join(draw.choice(away), memory_mb=half_mb, incarnation=step + 1)
            case "kill" if len(here) > 4:
                world.kill(draw.choice(here))
            case "ask":
                requests.append(world.ask(make_submit(len(requests) + 1)))
            case "constrain":
                world.control("apply", 1000 + step, objective=draw.choice(["throughput", "throughput", "latency"]))
            case "generate":
                for request in requests:
                    generate(world, request, draw.randint(1, 3))
        world.wait(draw.choice([0.1, 0.6, 3.0]))
        check(world)
    for name in NODES[:6]:
        if name not in world.nodes or not world.nodes[name].alive:
            world.join(name, memory_mb=half_mb, incarnation=100)
    for _ in range(60):
        world.wait(1.0)
        check(world)
        for request in requests:
            generate(world, request, 8)
    for request in requests:
        end = world.end(request)
        assert end, "it is still open"
        if isinstance(end, StreamEnd):
            assert world.text(request) == answer_text(5, 8)
        else:
            assert end.code in ("no_nodes", "no_memory", "not_ready"), end.reason
    for command in range(1000, 1030):
        if any(f"{command:016x}" in str(effect) for effect in world.effects):
            assert world.reply(command)


def generate(world: World, request: str, most: int) -> None:
    """Up to so many tokens more of an answer of 8, if it is open."""
    if world.end(request) or not any(request in node.open for node in world.nodes.values()):
        return
    left = 8 - len(world.text(request))
    ring = world.plan_of(world.pipeline_of(request)).ring
    if ring and request in world.nodes[ring[-1].node].open:
        world.generate(request, min(left, most), flags=Flag.LENGTH if left <= most else 0)
