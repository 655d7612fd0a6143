"""Plans for brokers that pass on short messages only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.deployment.message_fit import MessageFit, message_fit
from orchestrator.effects import LimitMessages, SolvePlan
from orchestrator.events import BusUp, NodeSaid
from orchestrator.planning.errors import PlanningError
from schemas.codec import WIRE_DTYPES, activation_payload_bytes
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import BlobRef, PrepareSegment, StreamError
from tests.support import orchestrating
from tests.support.orchestrating import World
from tests.support.scripted_nodes import make_manifest, make_submit

MANIFEST = make_manifest(max_context=4_096)
SEGMENT = orchestrating._segment(0)
ASKED: dict[str, Any] = {"wire_dtype": "fp32", "chunk_tokens": 32, "context_tokens": 2_048}


def test_what_is_asked_for_where_it_fits() -> None:
    assert message_fit(MANIFEST, **ASKED, max_message_bytes=MAX_PAYLOAD_BYTES) == MessageFit(32, 2_048)


def test_chunks_and_context_are_as_long_as_fits() -> None:
    fit = message_fit(MANIFEST, **ASKED, max_message_bytes=5_000)
    assert activation_payload_bytes(WIRE_DTYPES["fp32"], fit.chunk_tokens, 64) <= 5_000 - 44
    assert (fit.chunk_tokens, fit.context_tokens) == (19, 369)


@pytest.mark.parametrize(
    ("asked", "needed"),
    [({}, "4,096"), ({"context_tokens": 10}, "2,128"), ({"wire_dtype": "int8", "context_tokens": 1}, "2,056")],
)
def test_what_does_not_fit_at_all_is_said_with_both_numbers(asked: dict[str, Any], needed: str) -> None:
    with pytest.raises(
        PlanningError, match=f"needs messages of {needed} bytes .* passes on 2,000 bytes at most: raise"
    ):
        message_fit(MANIFEST, **{**ASKED, **asked}, max_message_bytes=2_000)


# --- in the orchestrator ----------------------------------------------------------------------------------------


def prepared(world: World) -> list[PrepareSegment]:
    return world.published(PrepareSegment)


def limits(world: World) -> list[int]:
    return [effect.max_bytes for effect in world.effects if isinstance(effect, LimitMessages)]


def test_the_tightest_node_decides() -> None:
    world = World(models={"tiny": MANIFEST}).up()
    world.join("a", "b")
    world.join("c", max_message_bytes=5_000)
    world.wait(2.0)
    assert {(one.max_message_bytes, one.chunk_tokens, one.context_tokens) for one in prepared(world)} == {
        (5_000, 38, 369)
    }
    assert limits(world) == [5_000]
    status = world.control("status")
    assert status
    assert status.result["max_message_bytes"] == 5_000


def test_what_the_broker_takes_of_the_orchestrator_counts_too() -> None:
    world = World(models={"tiny": MANIFEST})
    world.event(BusUp(reconnect=False, max_message_bytes=6_000))
    world.join("a", "b", "c")
    world.wait(2.0)
    assert {one.max_message_bytes for one in prepared(world)} == {6_000}


def test_no_plan_where_the_shortest_messages_do_not_fit() -> None:
    world = World().up()
    world.join("a", "b", "c", max_message_bytes=1_500)
    world.wait(2.0)
    assert not any(isinstance(effect, SolvePlan) for effect in world.effects)
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert "tiny needs messages of" in error.reason
    assert "passes on 1,500 bytes at most: raise the broker's limit" in error.reason


def test_no_plan_where_a_node_can_not_be_told_of_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = tuple(BlobRef(sha256=f"{number:064x}", size_bytes=1) for number in range(60))
    monkeypatch.setattr(orchestrating, "_segment", lambda start: replace(SEGMENT, blobs=blobs))
    world = World().up()
    world.join("a", "b", "c", max_message_bytes=5_000)
    world.wait(2.0)
    assert prepared(world) == []
    error = world.end(world.ask())
    assert isinstance(error, StreamError)
    assert re.search(
        r"a has to be told .* a message of 6,\d{3} bytes, and the broker passes on 5,000 bytes", error.reason
    )


def test_a_limit_that_becomes_lower_is_a_reason_for_another_plan() -> None:
    world = World(models={"tiny": MANIFEST}).serve("a", "b", "c")
    before, node = world.plan.epoch, world.nodes[world.plan.ring[0].node]
    world.event(NodeSaid(node.name, node.birth))
    world.wait(2.0)
    assert world.plan.epoch == before
    world.event(NodeSaid(node.name, replace(node.birth, max_message_bytes=4_500)))
    world.wait(2.0)
    assert world.plan.epoch > before
    assert prepared(world)[-1].max_message_bytes == 4_500
    assert limits(world) == [4_500]


def test_a_prompt_that_is_too_long_for_the_brokers_messages_is_told_so() -> None:
    world = World(models={"tiny": MANIFEST}).serve("a", "b", "c", max_message_bytes=5_000)
    error = world.end(world.ask(replace(make_submit(), messages=(), prompt="x" * 500)))
    assert isinstance(error, StreamError)
    assert error.reason == (
        "the prompt has 500 tokens, the context is 369: shorten it, or raise the broker's limit of a message"
        " (Mosquitto: max_packet_size, message_size_limit), which is 5,000 bytes"
    )
