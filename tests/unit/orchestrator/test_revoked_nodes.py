"""A node that is no member any more: it is gone for good, and others take its layers at once."""

from orchestrator.events import NodeForgotten, NodeRevoked
from schemas.messages import NodeStatus
from tests.support.orchestrating import World
from tests.support.scripted_nodes import answer_text, make_submit


def test_its_layers_are_planned_anew_at_once_and_answers_go_on() -> None:
    world = World().serve("a", "b", "c", "d")
    request = world.ask(make_submit(max_tokens=4, patience_s=60.0))
    world.generate(request, 2)
    leaver = world.plan.ring[1].node
    world.nodes[leaver].alive = False
    world.event(NodeRevoked(leaver))
    world.wait(0.1)  # less than who may be back is given
    assert world.plan.ring
    assert leaver not in [stage.node for stage in world.plan.ring]
    world.generate(request, 2)
    assert world.text(request) == answer_text(5, 4)


def test_it_is_said_for_the_next_start_to_hear() -> None:
    world = World().serve("a", "b", "c")
    world.event(NodeRevoked("b"))
    (said,) = [effect for effect in world.effects if isinstance(getattr(effect, "message", None), NodeStatus)]
    assert (said.topic, said.retain) == ("linguabus/v1/node/b/status", True)
    assert (said.message.online, said.message.reason) == (False, "its membership has ended")


def test_who_was_never_here_is_no_news() -> None:
    assert World().serve("a", "b", "c").event(NodeRevoked("laptop")) == []


def test_it_is_shown_for_a_while_and_not_for_ever() -> None:
    world = World().serve("a", "b", "c", "d")
    leaver = world.plan.ring[1].node
    world.nodes[leaver].alive = False
    world.event(NodeRevoked(leaver))
    world.wait(0.1)
    assert not world.core.plane.fleet.nodes[leaver].usable
    for node in (leaver, world.plan.ring[0].node):
        world.event(NodeForgotten(node))
    assert leaver not in world.core.plane.fleet.nodes
    assert world.plan.ring[0].node in world.core.plane.fleet.nodes, "it is here"
