"""The end of an orchestrator, versions, and what an operator may ask."""

from dataclasses import replace

import pytest

from orchestrator.effects import (
    BuildSegments,
    Note,
    SaveConstraints,
    SaveModelChoice,
    SolvePlan,
    TellEvents,
    TellHistory,
)
from orchestrator.events import JobFailed, NodeSaid, Stopping
from orchestrator.planning.solution import Infeasible
from schemas.codec import Flag
from schemas.messages import (
    Epoch,
    PrepareSegment,
    RefuseNode,
    RegisterAgain,
    ReleaseSegment,
    StageMetrics,
    StreamError,
    name_of,
)
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT
from tests.support.orchestrating import World
from tests.support.scripted_nodes import MB, make_birth, make_heartbeat, make_manifest

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
    world.event(NodeSaid("old", make_birth("old", protocol=0)))
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


def test_a_plan_is_shown_with_the_present_memory_of_nodes_that_have_its_stages() -> None:
    world = World().serve("a", "b", "c")
    first, *others = (stage.node for stage in world.plan.ring)

    def peaks(number: int) -> dict[str, int]:
        plan = world.control("plan", number)
        assert plan
        return {stage["node"]: stage["peak_rss_bytes"] for stage in plan.result["stages"]}

    held = StageMetrics(pipeline="main", epoch=world.plan.epoch, stage=0)
    beat = replace(make_heartbeat(first), rss_bytes=5 * MB, peak_rss_bytes=7 * MB)
    world.event(NodeSaid(first, replace(beat, stages=(replace(held, epoch=Epoch(generation=0, counter=1)),))))
    assert peaks(1)[first] == MB  # of another plan's stages
    world.event(NodeSaid(first, replace(beat, stages=(held,))))
    assert peaks(2) == {first: 7 * MB, **dict.fromkeys(others, MB)}


def test_control_without_a_plan_says_why() -> None:
    world = World().up()
    world.wait(2.0)
    reply = world.control("plan")
    assert reply
    assert not reply.ok
    assert reply.reason.startswith("no nodes")


def test_a_plan_that_is_taken_down_for_its_successor_is_shown_until_that_one_is_in_force() -> None:
    """Nodes too small for two plans at once: a quicker node has joined, nobody asks, the ring is exchanged."""
    world = World().serve("a", "b", "c")
    before = str(world.plan.epoch)
    request = world.ask()
    world.generate(request, 8, flags=Flag.LENGTH)
    world.join("d", speed_flops=1e11)
    for node in world.nodes.values():
        node.silent = True
    world.wait(3.0)
    assert not world.plan.ring, "the case: the plan in force had to go first"
    reply = world.control("plan")
    assert reply
    assert reply.ok
    plan = reply.result
    assert (plan["in_force"], plan["state"], plan["epoch"]) == (False, "rolling out", before)
    assert {stage["node"] for stage in plan["stages"]} == {"a", "b", "c"}
    assert [one["epoch"] for one in plan["pipelines"]] == [before]
    coming = plan["next"]
    assert coming["epoch"] > before
    assert coming["state"] == "rolling out"
    assert "d" in {stage["node"] for stage in coming["stages"]}
    for name, node in world.nodes.items():
        for prepare in world.commands(name, PrepareSegment):
            if str(prepare.epoch) == coming["epoch"]:
                world.event(NodeSaid(name, node.ready(prepare)))
    after = world.control("plan", 98)
    assert after
    assert (after.result["in_force"], after.result["epoch"], after.result["next"]) == (True, coming["epoch"], None)


def test_a_plan_in_force_is_shown_with_the_one_that_is_to_follow() -> None:
    world = World().serve("a", "b", "c", memory_mb=2000)
    world.join("d", speed_flops=1e11, memory_mb=2000)
    for node in world.nodes.values():
        node.silent = True
    world.wait(3.0)
    reply = world.control("plan")
    assert reply
    assert (reply.result["in_force"], reply.result["state"]) == (True, "rolling out")
    assert reply.result["epoch"] == str(world.plan.epoch)
    assert [stage["node"] for stage in reply.result["next"]["stages"]] == ["d"]


def test_a_plan_whose_ring_broke_is_shown_as_long_as_there_is_hope() -> None:
    world = World().serve("a", "b", "c", "d")
    lost = world.plan.ring[0].node
    for node in world.nodes.values():
        node.silent = True
    world.kill(lost)
    world.wait(1.0)
    reply = world.control("plan")
    assert reply
    assert reply.ok
    assert not reply.result["in_force"]
    world.kill(next(name for name in "abcd" if name != lost))
    world.wait(60.0)
    hopeless = world.control("plan", 98)
    assert hopeless
    assert not hopeless.ok


@pytest.mark.parametrize("operation", ["apply", "preview"])
@pytest.mark.parametrize(
    "wish", [{"exclude": ["c", "b9"]}, {"pins": [["embed", "b9"]]}, {"max_memory_mb": [["b9", 500]]}]
)
def test_names_of_nodes_that_do_not_exist_are_refused_with_the_nearest(operation: str, wish: dict[str, object]) -> None:
    world = World().serve("a", "b1", "c")
    reply = world.control(operation, **wish)
    assert reply
    assert (reply.ok, reply.reason) == (False, "there is no node b9: did you mean b1?")
    reply = world.control("drain", 98, node="kitchen")
    assert reply
    assert (reply.ok, reply.reason) == (False, "there is no node kitchen: see linguabus nodes")
    assert not [effect for effect in world.effects if isinstance(effect, SaveConstraints)]


def test_a_node_that_is_away_may_be_named() -> None:
    world = World().serve("a", "b", "c", "d")
    world.kill("d")
    reply = world.control("apply", exclude=["d"])
    assert reply
    assert reply.ok
    del world.core.plane.fleet.nodes["d"]  # as after a restart of the orchestrator, with a broker that has forgotten it
    again = world.control("apply", 98, exclude=["d"], objective="balanced")
    assert again
    assert again.ok


def test_the_plan_says_what_every_plan_has_to_respect() -> None:
    world = World().serve("a", "b", "c")
    for number, limits in ((1, [["a", 100_000]]), (3, [])):
        world.control("apply", number, max_memory_mb=limits)
        shown = world.control("plan", number + 1)
        assert shown
        assert shown.result["constraints"]["max_memory_mb"] == limits


def test_replan_that_changes_nothing_says_so() -> None:
    world = World().serve("a", "b", "c")
    reply = world.control("replan")
    assert reply
    assert reply.ok
    assert reply.result == {"changed": False}


def test_replan_without_a_solution_says_why_and_keeps_the_plan() -> None:
    world = World().serve("a", "b", "c")
    world.solver = lambda _problem: Infeasible("needs 3 GB, has 2 GB, short by 1 GB", 1, "add a node")
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


def test_a_model_that_does_not_fit_leaves_the_one_that_serves() -> None:
    big = make_manifest("big", block_bytes=1000 * MB)
    world = World(models={"tiny": make_manifest(), "big": big}).serve("a", "b", "c")
    reply = world.control("use_model", model="big")
    assert reply
    assert not reply.ok
    assert "GB" in reply.reason
    assert not [e for e in world.effects if isinstance(e, SaveModelChoice)]
    request = world.ask()
    assert request in world.nodes[world.plan.ring[0].node].open
    assert world.plan.model == "tiny"


def test_a_model_without_the_blocks_of_a_remembered_pin_is_refused_with_the_pin_and_the_cure() -> None:
    models = {"tiny": make_manifest(), "small": make_manifest("small", blocks=2)}
    world = World(models=models).serve("a", "b", "c")
    world.control("apply", pins=[["2-3", "b"]])
    world.wait(2.0)
    world.control("use_model", 98, model="small")
    world.wait(2.0)
    reply = world.reply(98)
    assert reply
    assert not reply.ok
    assert "--pin 2-3=b: there are no blocks 2-3: the model has blocks 0-1" in reply.reason
    assert "remembered: linguabus plan apply without it" in reply.reason
    assert not [e for e in world.effects if isinstance(e, SaveModelChoice)]
    world.control("apply", 97)
    world.wait(2.0)
    assert world.control("use_model", 96, model="small")
    world.wait(2.0)
    assert world.plan.model == "small"


def test_whoever_asks_after_use_model_is_answered_by_that_model() -> None:
    models = {"tiny": make_manifest(), "other": make_manifest("other")}
    world = World(models=models).serve("a", "b", "c")
    world.hold = (SolvePlan,)
    assert world.control("use_model", model="other") is None
    request = world.ask()
    assert request not in world.nodes[world.plan.ring[0].node].open
    job = [e for e in world.effects if isinstance(e, SolvePlan)][-1]
    world.hold = ()
    world.solved(job.job, world.solver(job.problem))
    assert world.plan.model == "other"
    assert request in world.nodes[world.plan.ring[0].node].open


def test_of_two_choices_the_later_counts() -> None:
    models = {name: make_manifest(name) for name in ("tiny", "other", "third")}
    world = World(models=models).serve("a", "b", "c")
    world.hold = (SolvePlan,)
    world.control("use_model", 1, model="other")
    world.control("use_model", 2, model="third")
    first = world.reply(1)
    assert first
    assert "meanwhile model third was chosen" in first.reason


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


LEAST_ARGUMENTS: dict[str, dict[str, object]] = {
    "control.use_model": {"model": "gone"},
    "control.drain": {"node": "a"},
    "control.rename": {"node": "a"},
}


@pytest.mark.parametrize("name", [name_of(message) for message in CONTROL_SUBMIT.messages])
def test_every_operation_is_answered_by_itself_or_by_who_keeps_the_answer(name: str) -> None:
    world = World().up()
    world.wait(2.0)
    reply = world.control(name.removeprefix("control."), **LEAST_ARGUMENTS.get(name, {}))
    assert reply or [effect for effect in world.effects if isinstance(effect, TellEvents | TellHistory)]


def test_every_operation_has_an_answer_of_its_own() -> None:
    answers = {name_of(message) for message in CONTROL_REPLY.messages}
    assert {f"{name_of(message)}.reply" for message in CONTROL_SUBMIT.messages} <= answers


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("drain", {}, "node: is missing"),
        ("use_model", {"model": 3}, "model: must be a text"),
        ("history", {"limit": 201}, "limit: must be at most 200, 201 is outside 1 to 200"),
        ("nodes", {"colour": "red"}, "message: 'colour' is not a member of this message"),
        ("apply", {"pins": [["embed"]]}, "constraints.pins[0]: must be a list of 2 values"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused_with_its_place(
    operation: str, arguments: dict[str, object], reason: str
) -> None:
    reply = World().up().control(operation, **arguments)
    assert reply
    assert (reply.ok, reply.reason) == (False, reason)


def test_an_unknown_operation_lists_the_known_ones() -> None:
    reply = World().up().control("explode")
    assert reply
    assert "use one of apply, drain, events, history, nodes, plan" in reply.reason


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
