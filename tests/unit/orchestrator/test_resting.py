"""Nodes that want no layers for now: others take theirs over, or what is asked waits until they are back."""

from __future__ import annotations

from orchestrator.effects import Note
from orchestrator.events import NodeSaid
from schemas.messages import NodeStatus, SegmentFailed, StreamStatus
from tests.support.orchestrating import World
from tests.support.scripted_nodes import make_submit


def rest(world: World, name: str, *, wants: bool = True, retained: bool = False) -> None:
    said = NodeStatus(
        node=name, incarnation=1, online=True, resting=wants, reason="paused by its owner" if wants else ""
    )
    world.event(NodeSaid(name, said, retained=retained))


def let_go(world: World, name: str) -> None:
    """The node's stages end, and that it said so is lost: heartbeats are what is left."""
    world.nodes[name].prepared.clear()


def ring(world: World) -> set[str]:
    return {stage.node for stage in world.plan.ring}


def notes(world: World, kind: str) -> list[str]:
    return [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == kind]


def test_a_resting_node_is_planned_out_and_comes_back_by_itself() -> None:
    world = World().serve("a", "b", "c", "d")
    rest(world, "b")
    world.wait(1.0)
    assert ring(world) == {"a", "c", "d"}
    assert notes(world, "drained") == ["node b gives up its layers: it rests: paused by its owner"]
    view = next(node for node in world.core.plane.fleet.view(world.now_s) if node.node == "b")
    assert (view.state, view.drained) == ("online", "it rests: paused by its owner")
    rest(world, "b", wants=False)
    assert notes(world, "restored") == ["node b may have layers again"]
    world.kill("c")
    world.wait(3.0)
    assert ring(world) == {"a", "b", "d"}


def test_it_is_no_last_resort_and_who_waits_is_told_for_whom() -> None:
    world = World().serve("a", "b", "c")
    world.condition["b"] = {"battery_percent": 12.0, "charging": False}
    rest(world, "b")
    world.wait(5.0)
    assert ring(world) == {"a", "b", "c"}, "until it lets go"
    request = world.ask(make_submit(patience_s=60.0))
    let_go(world, "b")
    world.wait(3.0)
    assert not world.core.plane.pipeline.active
    assert not notes(world, "last_resort")
    assert not notes(world, "set_apart")
    (*_, waits) = [said.waits_for for said in world.stream(request) if isinstance(said, StreamStatus)]
    assert waits.startswith("node b (paused by its owner): ")
    rest(world, "b", wants=False)
    world.wait(3.0)
    assert ring(world) == {"a", "b", "c"}
    world.generate(request, 8, flags=2)
    assert world.end(request)


def test_it_says_which_stage_it_let_go_and_is_not_set_apart_for_it() -> None:
    world = World().serve("a", "b", "c")
    rest(world, "b")
    world.wait(1.0)
    said = SegmentFailed(
        node="b", incarnation=1, pipeline="main", epoch=world.plan.epoch, code="refused",
        reason="it rests: paused by its owner",
    )  # fmt: skip
    world.event(NodeSaid("b", said))
    assert not world.core.plane.pipeline.active
    rest(world, "b", wants=False)
    world.wait(1.0)
    assert ring(world) == {"a", "b", "c"}
    assert not notes(world, "set_apart")


def test_a_ring_whose_node_rests_is_left_alone_while_it_holds_its_stage() -> None:
    world = World().serve("a", "b", "c")
    rest(world, "b")
    world.wait(20.0)
    assert ring(world) == {"a", "b", "c"}
    assert not notes(world, "broken")


def test_what_was_stored_says_so_to_another_start_of_the_orchestrator() -> None:
    world = World()
    world.up()
    world.join("a", "b", "c", "d")
    rest(world, "b", retained=True)
    world.wait(5.0)
    assert ring(world) == {"a", "c", "d"}
