"""What operators ask besides plans: drain, events, top, rebalance; the journal and the rates behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.effects import Note, PreviewPlan, SaveDrained, SaveLabel, TellEvents
from orchestrator.events import NodeRevoked, NodeSaid, PlanPreviewed
from orchestrator.operator_api.event_log import KEPT, EventLog
from orchestrator.pipelines.token_rate import RateMeter
from orchestrator.service.worker import preview
from schemas.messages import MOST_LABELS, FleetEvent, StageMetrics, encode
from tests.support.orchestrating import World
from tests.support.scripted_nodes import make_heartbeat


def ring(world: World) -> set[str]:
    return {stage.node for stage in world.plan.ring}


def told(world: World, operation: str, **arguments: Any) -> dict[str, Any]:
    reply = world.control(operation, **arguments)
    assert reply
    assert reply.ok, reply.reason
    return reply.result


# --- drain ------------------------------------------------------------------------------------------------------


def test_drain_empties_a_node_and_is_remembered() -> None:
    world = World().serve("a", "b", "c", "d")
    assert told(world, "drain", node="d")["holds"] == []
    assert told(world, "drain", node="d", undo=True)["drained"] == ""
    first = told(world, "drain", node="b")
    assert first["drained"] == "an operator drains it"
    world.wait(2.0)
    assert ring(world) == {"a", "c", "d"}
    assert told(world, "drain", node="b") == {**first, "holds": [], "stays": ""}
    saved = [effect for effect in world.effects if isinstance(effect, SaveDrained)]
    assert saved == [SaveDrained("d", True), SaveDrained("d", False), SaveDrained("b", True)]


def test_a_drained_node_holds_layers_until_it_has_released_them() -> None:
    world = World().serve("a", "b", "c", "d")
    old = StageMetrics(pipeline="main", epoch=world.plan.epoch, stage=1)
    world.event(NodeSaid("b", replace(make_heartbeat("b"), stages=(old,))))
    told(world, "drain", node="b")
    world.wait(0.5)
    assert "b" not in ring(world)
    world.event(NodeSaid("b", replace(make_heartbeat("b"), stages=(old,))))
    assert told(world, "drain", node="b")["holds"] == ["main"]
    world.wait(2.0)
    assert told(world, "drain", node="b")["holds"] == []


def test_drain_without_others_says_what_keeps_the_layers() -> None:
    world = World().serve("a", "b", "c")
    told(world, "drain", node="b")
    world.wait(1.0)
    said = told(world, "drain", node="b")
    assert said["holds"] == ["main"]
    assert said["stays"].startswith("needs ")
    assert ring(world) == {"a", "b", "c"}
    world.join("d")
    world.wait(2.0)
    assert ring(world) == {"a", "c", "d"}
    assert told(world, "drain", node="b")["holds"] == []


def test_a_drain_that_was_remembered_is_respected_at_the_start() -> None:
    world = World()
    world.core.plane.fleet.drained.add("b")
    world.serve("a", "b", "c", "d")
    assert ring(world) == {"a", "c", "d"}
    told(world, "drain", node="b", undo=True)
    world.kill("d")
    world.wait(3.0)
    assert ring(world) == {"a", "b", "c"}


@pytest.mark.parametrize("arguments", [{}, {"node": 1}, {"node": "a", "undo": "yes"}, {"node": "nobody"}])
def test_drains_that_are_refused(arguments: dict[str, Any]) -> None:
    reply = World().serve("a", "b", "c").control("drain", **arguments)
    assert reply
    assert not reply.ok


# --- events -----------------------------------------------------------------------------------------------------


def test_events_are_asked_of_the_journal() -> None:
    world = World().up()
    world.control("events", limit=3)
    assert [effect.limit for effect in world.effects if isinstance(effect, TellEvents)] == [3]
    for limit in (0, KEPT + 1, "all"):
        reply = world.control("events", limit=limit)
        assert reply
        assert not reply.ok


def test_the_life_of_a_fleet_is_told() -> None:
    world = World().serve("a", "b", "c", "d")
    told(world, "drain", node="a")
    world.wait(1.0)
    world.kill("b")
    world.wait(6.0)
    kinds = [effect.kind for effect in world.effects if isinstance(effect, Note) and effect.kind]
    assert kinds == ["model", *4 * ["joined"], "plan", "drained", "plan", "lost", "broken", "no_plan"]


def test_the_journal_keeps_the_newest_with_a_kind() -> None:
    journal = EventLog("main")
    assert journal.add(Note("0123 failed"), 5.0) is None
    event = journal.add(Note("x" * 2000, warning=True, kind="lost", node="a"), 5.0)
    assert event == FleetEvent(
        pipeline="main", number=1, at_s=5.0, kind="lost", node="a", text="x" * 1000, warning=True
    )
    assert encode(event)
    for second in range(KEPT + 5):
        journal.add(Note(f"{second}", kind="plan", pipeline="main-2"), float(second))
    newest = journal.view()
    assert len(newest) == KEPT
    assert (newest[0].number, newest[-1].number, newest[-1].pipeline) == (7, KEPT + 6, "main-2")
    assert [event.text for event in journal.view(2)] == [str(KEPT + 3), str(KEPT + 4)]


# --- top --------------------------------------------------------------------------------------------------------


def test_top_shows_what_is_predicted_and_what_is_observed() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.generate(request, 4)
    stage = world.plan.ring[1]
    seen = StageMetrics(
        pipeline="main", epoch=world.plan.epoch, stage=1, decode_s=0.004, decode_rows=1.5, queue=2, open_requests=1
    )
    world.event(NodeSaid(stage.node, replace(make_heartbeat(stage.node), stages=(seen,), rtt_s=0.003)))
    said = told(world, "top")
    (pipeline,) = said["pipelines"]
    assert (pipeline["pipeline"], pipeline["state"], pipeline["epoch"]) == ("main", "serving", str(world.plan.epoch))
    assert (pipeline["open_requests"], pipeline["slots"], pipeline["tokens_per_s"]) == (1, 2, 4.0)
    assert [row["step_ms"] for row in pipeline["stages"]] == [None, 4.0, None]
    assert (pipeline["stages"][1]["rows"], pipeline["stages"][1]["queue"]) == (1.5, 2)
    assert all(row["predicted_ms"] > 0 for row in pipeline["stages"])
    node = next(row for row in said["nodes"] if row["node"] == stage.node)
    assert node["rtt_ms"] == 3.0
    assert node["stages"] == [{"pipeline": "main", "epoch": str(world.plan.epoch), "stage": 1}]


def test_top_without_a_plan_says_why() -> None:
    world = World().up()
    world.wait(2.0)
    said = told(world, "top")
    assert said["nodes"] == []
    assert all(row["epoch"] is None and row["reason"].startswith("no nodes") for row in said["pipelines"])


def test_a_rate_is_of_the_last_seconds() -> None:
    meter = RateMeter(window_s=5.0)
    assert meter.per_s(0.0) == 0.0
    meter.add(8, 100.0)
    assert meter.per_s(100.0) == 8.0
    for tenth in range(1, 101):
        meter.add(1, 100.0 + tenth / 10)
    assert meter.per_s(110.0) == pytest.approx(10.0, rel=0.05)
    assert meter.per_s(114.0) == pytest.approx(2.2, rel=0.2)
    assert meter.per_s(120.0) == 0.0


def test_tokens_that_come_twice_do_not_count_as_made() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.generate(request, 4)
    world.generate(request, 4, start=world.position(request) - 4)
    (pipeline,) = told(world, "top")["pipelines"]
    assert pipeline["tokens_per_s"] == 4.0


# --- rebalance --------------------------------------------------------------------------------------------------


def compared(world: World, *, dry_run: bool) -> dict[str, Any]:
    """What is said of the only pipeline."""
    (said,) = told(world, "rebalance", dry_run=dry_run)["pipelines"]
    assert said["pipeline"] == "main"
    return said  # type: ignore[no-any-return]


def test_rebalance_finds_nothing_better() -> None:
    world = World().serve("a", "b", "c")
    said = compared(world, dry_run=False)
    assert (said["moves"], said["reason"]) == (False, "the plan in force is the best one")
    assert said["now"] == said["best"]


def test_a_dry_run_changes_nothing_and_the_other_does() -> None:
    world = World().serve("a", memory_mb=600)
    before = world.plan
    world.join("e", speed_flops=4e10, memory_mb=600)
    said = compared(world, dry_run=True)
    assert said["moves"]
    assert said["gain"] > 0.05
    assert said["best"]["decode_ms"] < said["now"]["decode_ms"]
    assert "e" in {stage["node"] for stage in said["best"]["stages"]}
    assert said["move"]["mode"] in ("copy", "prefill")
    assert world.plan == before
    done = told(world, "rebalance")
    assert done["changed"]
    assert done["pipelines"][0]["reason"] == said["reason"]
    assert "e" in ring(world)


def test_a_move_that_can_not_be_live_is_said_to_be_none() -> None:
    world = World().serve("a", "b", "c", "d")
    world.join("e", speed_flops=4e10)
    said = compared(world, dry_run=True)
    assert said["moves"]
    assert said["move"] is None


def test_what_was_found_for_another_plan_is_not_compared() -> None:
    world = World().serve("a", "b", "c", "d")
    world.hold = (PreviewPlan,)
    world.control("rebalance", dry_run=True)
    (asked,) = [effect for effect in world.effects if isinstance(effect, PreviewPlan)]
    unneeded = next(name for name in "abcd" if name in ring(world))
    world.kill(unneeded)
    world.wait(20.0)
    assert unneeded not in ring(world)
    world.hold = ()
    found = preview(asked.problem, world.solver(asked.problem), asked.pipelines)
    world.event(PlanPreviewed(asked.job, found))
    reply = world.reply()
    assert reply
    (said,) = reply.result["pipelines"]
    assert said["epoch"] == str(world.plan.epoch)
    assert unneeded not in {stage["node"] for stage in said["best"]["stages"]}


def test_rebalance_without_a_plan_says_why() -> None:
    world = World().up()
    world.wait(2.0)
    reply = world.control("rebalance")
    assert reply
    assert reply.reason.startswith("no nodes")
    refused = World().serve("a", "b", "c").control("rebalance", dry_run="yes")
    assert refused
    assert refused.reason.startswith("dry_run")


def test_rebalance_when_the_plan_in_force_should_not_go_on() -> None:
    world = World().serve("a", "b", "c")
    world.core.plane.fleet.drained.add("b")
    said = compared(world, dry_run=True)
    assert not said["moves"]
    assert said["reason"].startswith("no other plan is possible")
    assert said["now"] is None
    world.core.plane.fleet.drained.clear()
    world.join("d")
    world.core.plane.fleet.drained.add("b")
    said = compared(world, dry_run=True)
    assert said["moves"]
    assert said["reason"] == "the plan in force should not go on: b should have no layers"


# --- why --------------------------------------------------------------------------------------------------------


def test_decisions_are_told_with_their_reasons() -> None:
    world = World().serve("a", "b", "c")
    for _ in range(2):
        world.control("replan")
        world.wait(3.0)
    (pipeline,) = told(world, "why")["pipelines"]
    assert pipeline["epoch"] == str(world.plan.epoch)
    (decision,) = pipeline["decisions"]
    assert (decision["verdict"], decision["reason"]) == ("stay", "the plan in force is the best one")
    assert (decision["times"], decision["first_s_ago"], decision["last_s_ago"]) == (2, 6.0, 3.0)
    told(world, "drain", node="b")
    world.wait(1.0)
    (pipeline,) = told(world, "why")["pipelines"]
    assert pipeline["stays"].startswith("needs ")


def test_a_move_is_a_decision_too() -> None:
    world = World().serve("a", "b", "c", "d")
    told(world, "drain", node="b")
    world.wait(1.0)
    (pipeline,) = told(world, "why")["pipelines"]
    assert [decision["verdict"] for decision in pipeline["decisions"]] == ["move"]


# --- what nodes are called --------------------------------------------------------------------------------------


def test_a_node_is_called_something_else_until_it_is_not() -> None:
    world = World().serve("a", "b", "c")
    assert told(world, "rename", node="b", label="  Anna's phone ") == {"node": "b", "label": "Anna's phone"}
    assert [node.get("label") for node in told(world, "nodes")["nodes"]] == [None, "Anna's phone", None]
    assert told(world, "rename", node="b", label="Anna's phone")["label"] == "Anna's phone"
    for label in ("b", "", "   "):
        assert told(world, "rename", node="b", label=label)["label"] == ""
    assert [effect for effect in world.effects if isinstance(effect, SaveLabel)] == [
        SaveLabel("b", "Anna's phone"),
        SaveLabel("b", ""),
    ]


def test_no_two_nodes_look_the_same() -> None:
    world = World().serve("a", "b", "c")
    told(world, "rename", node="b", label="Anna's phone")
    for node, label, other in (("a", "Anna's phone", "b"), ("a", "c", "c"), ("nobody", "x", "nobody")):
        reply = world.control("rename", node=node, label=label)
        assert reply
        assert not reply.ok
        assert f"node {other}" in reply.reason


def test_what_cannot_be_shown_is_in_no_label() -> None:
    world = World().serve("a", "b", "c")
    assert told(world, "rename", node="a", label="a\nb\x1b[2Jc")["label"] == "a b\ufffd[2Jc"


def test_so_many_labels_are_kept_and_no_more() -> None:
    world = World().serve("a", "b", "c")
    world.core.plane.fleet.labels.update({f"n{number}": f"number {number}" for number in range(MOST_LABELS)})
    reply = world.control("rename", node="a", label="x")
    assert reply
    assert "no more are kept" in reply.reason
    assert told(world, "rename", node="n7", label="another")["label"] == "another"


def test_who_joins_by_a_revoked_name_is_another_device() -> None:
    world = World().serve("a", "b", "c", "d")
    told(world, "rename", node="b", label="Anna's phone")
    assert SaveLabel("b", "") in world.event(NodeRevoked("b"))
    assert not world.core.plane.fleet.labels
