"""Nodes that should give up their layers while the pipeline serves."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.effects import Note
from orchestrator.events import NodeSaid
from orchestrator.fleet.health import HealthLimits
from orchestrator.planning.problem import Stage
from orchestrator.planning.solution import Solution
from orchestrator.planning.solver.solve import evaluate, solve
from orchestrator.replanning.problem_builder import build_problem
from schemas.contract import dump, load
from schemas.errors import MemberError
from schemas.messages import NodeStatus, PlanConstraints
from tests.support.orchestrating import World
from tests.support.scripted_nodes import make_birth, make_manifest, room_for

LOW = {"battery_percent": 12.0, "charging": False}
FALLING = {"battery_percent": 29.0, "charging": False}
GOOD = {"battery_percent": 90.0, "charging": False}


def ring(world: World) -> set[str]:
    return {stage.node for stage in world.plan.ring}


def notes(world: World, kind: str) -> list[str]:
    return [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == kind]


def leave(world: World, name: str) -> None:
    world.event(NodeSaid(name, NodeStatus(node=name, incarnation=1, online=True, leaving=True, reason="asked to stop")))


def test_a_leaving_node_is_planned_out_and_may_go() -> None:
    world = World().serve("a", "b", "c", "d")
    assert ring(world) == {"a", "b", "c"}
    leave(world, "b")
    world.wait(1.0)
    assert ring(world) == {"a", "c", "d"}
    assert notes(world, "drained") == ["node b gives up its layers: it is leaving: asked to stop"]
    world.kill("b")
    world.wait(3.0)
    assert ring(world) == {"a", "c", "d"}


def test_without_others_the_plan_stays_until_somebody_joins() -> None:
    world = World().serve("a", "b", "c")
    leave(world, "b")
    world.wait(1.0)
    assert ring(world) == {"a", "b", "c"}
    stays = [e.text for e in world.effects if isinstance(e, Note) and "stays" in e.text]
    assert stays
    assert "b: it is leaving: asked to stop" in stays[-1]
    world.ask()
    world.join("d")
    world.wait(1.0)
    request = "0000000000000001"
    world.generate(request, 8, flags=2)
    world.wait(2.0)
    assert ring(world) == {"a", "c", "d"}


@pytest.mark.parametrize(
    "trouble", [LOW, {"battery_temperature_c": 46.0, **GOOD}, {"available_bytes": 1_000_000}], ids=str
)
def test_battery_heat_and_memory_empty_a_node_and_better_figures_bring_it_back(trouble: dict[str, Any]) -> None:
    world = World().serve("a", "b", "c", "d")
    world.condition["b"] = trouble
    world.wait(2.0)
    assert "b" in ring(world), "it may be over in a moment"
    world.wait(4.0)
    assert ring(world) == {"a", "c", "d"}
    assert world.core.plane.fleet.is_usable("b", 1)
    world.condition["b"] = {}
    world.wait(3.0)
    assert notes(world, "restored") == ["node b may have layers again"]
    world.kill("c")
    world.wait(3.0)
    assert ring(world) == {"a", "b", "d"}


def test_a_low_battery_does_not_stop_the_only_fleet_there_is() -> None:
    world = World().serve("a", "b", "c")
    world.condition["b"] = LOW
    world.wait(10.0)
    assert ring(world) == {"a", "b", "c"}
    assert world.core.plane.pipeline.active


def test_a_weak_node_is_better_than_no_plan() -> None:
    world = World().serve("a", "b", "c", "d")
    world.condition["b"] = LOW
    world.wait(6.0)
    assert ring(world) == {"a", "c", "d"}
    world.kill("c")
    world.wait(3.0)
    assert ring(world) == {"a", "b", "d"}
    assert notes(world, "last_resort") == ["there is no plan without b: planning with them too"]
    world.join("e")
    world.wait(3.0)
    assert ring(world) == {"a", "d", "e"}


def test_a_drained_node_is_not() -> None:
    world = World().serve("a", "b", "c", "d")
    world.condition["b"] = LOW
    world.wait(6.0)
    world.control("drain", node="b")
    world.kill("c")
    world.wait(3.0)
    assert not world.core.plane.pipeline.active


def test_one_weak_node_alone_serves() -> None:
    world = World(limits=HealthLimits(dwell_s=0.0))
    world.condition["a"] = LOW
    world.serve("a", memory_mb=600)
    assert ring(world) == {"a"}


def test_nonsense_is_not_believed() -> None:
    world = World().serve("a", "b", "c", "d")
    world.condition["b"] = {**LOW, "rss_bytes": 0}
    world.wait(10.0)
    assert "b" in ring(world)
    assert len(notes(world, "flagged")) == 1
    world.condition["b"] = {}
    world.wait(12.0)
    assert notes(world, "trusted") == ["node b is believed again"]


def test_figures_of_a_flagged_node_are_not_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World().serve("a", "b", "c")
    heard: list[str] = []
    monkeypatch.setattr(world.core.plane.pipelines.profiles, "of", lambda births, _: heard.append(births[0].node) or {})
    world.condition = {"a": {"rss_bytes": 0}}
    world.wait(1.0)
    assert "c" in heard
    assert "a" not in heard


# --- rules of the operator --------------------------------------------------------------------------------------


def test_apply_min_battery_leaves_out_a_phone_that_is_below_it() -> None:
    world = World().serve("a", "b", "c", "d")
    world.condition["b"] = {"battery_percent": 20.0, "charging": False}
    world.wait(1.0)
    assert "b" in ring(world)
    reply = world.control("apply", min_battery_percent=30)
    assert reply
    assert reply.ok, reply.reason
    assert ring(world) == {"a", "c", "d"}


def test_a_node_that_falls_under_the_rule_during_service_gives_its_layers_up() -> None:
    world = World().serve("a", "b", "c", "d")
    world.condition["b"] = GOOD
    world.wait(1.0)
    reply = world.control("apply", min_battery_percent=30)
    assert reply
    assert reply.result == {"changed": False}
    world.condition["b"] = FALLING
    world.wait(2.0)
    assert ring(world) == {"a", "c", "d"}
    world.kill("a")
    world.wait(8.0)
    assert not world.core.plane.pipeline.active
    assert "battery at 29 %, 30 % asked" in world.core.plane.pipeline.report.why_none.reason
    world.condition["b"] = {"battery_percent": 35.0, "charging": True}
    world.wait(3.0)
    assert ring(world) == {"b", "c", "d"}


def test_only_on_charger_follows_the_plug() -> None:
    world = World().serve("a", "b", "c", "d")
    reply = world.control("apply", only_on_charger=True)
    assert reply
    assert reply.ok
    world.condition["a"] = GOOD
    world.wait(2.0)
    assert ring(world) == {"b", "c", "d"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_battery_percent": 101},
        {"min_battery_percent": "30"},
        {"min_battery_percent": True},
        {"only_on_charger": 1},
    ],
)
def test_rules_that_are_none(arguments: dict[str, Any]) -> None:
    with pytest.raises(MemberError, match=next(iter(arguments))):
        load(PlanConstraints, arguments)


def test_rules_survive_a_restart() -> None:
    constraints = PlanConstraints(min_battery_percent=30, only_on_charger=True)
    assert load(PlanConstraints, dump(constraints)) == constraints


# --- several pipelines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "pipelines"), [("abcde", 2), ("abcd", 1)])
def test_a_pipeline_loses_a_drained_node_to_others_or_ends(names: str, pipelines: int) -> None:
    world = World()
    world.core.plane.pipelines.use_constraints(PlanConstraints(objective="throughput"))
    world.serve(*names, memory_mb=room_for(head=1, block=2))
    drained = world.plan_of("main-2").ring[0].node
    world.control("drain", node=drained)
    world.wait(15.0)
    rings = [world.plan_of(name).ring for name in ("main", "main-2")]
    assert sum(bool(stages) for stages in rings) == pipelines
    assert drained not in {stage.node for stages in rings for stage in stages}
    reply = world.control("drain", node=drained)
    assert reply
    assert reply.result["holds"] == []


# --- what a spared node costs -----------------------------------------------------------------------------------


def test_a_node_to_be_spared_gets_less_and_is_predicted_as_quick_as_it_is() -> None:
    from orchestrator.fleet.health import Condition

    births = [make_birth(name, memory_mb=240) for name in ("a", "b")]
    manifest = make_manifest(blocks=12)
    options = {"context_tokens": 64, "slots": 1, "wire_dtype": "fp32", "chunk_tokens": 16}
    plain = build_problem(manifest, births, **options)  # type: ignore[arg-type]
    spared = build_problem(manifest, births, conditions={"a": Condition(20, False, 3.0)}, **options)  # type: ignore[arg-type]
    before, after = solve(plain, prove=False), solve(spared, prove=False)
    assert isinstance(before, Solution)
    assert isinstance(after, Solution)
    assert after.predicted.of_node("b").units > after.predicted.of_node("a").units
    assert after.predicted == evaluate(plain, after.stages).predicted
    assert after.objective_value > after.predicted.decode_s
    given = (Stage("a", 0, 7), Stage("b", 7, 14))
    assert evaluate(spared, given).predicted == evaluate(plain, given).predicted
    assert evaluate(spared, given).objective_value > evaluate(plain, given).objective_value
