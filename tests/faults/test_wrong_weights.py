"""Weights are damaged where nodes keep them, on disk and in memory: no reader sees what such a node computes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import AnswerFailed, Client
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from schemas.messages import NodeView, StageView
from tests.support.bus_recorder import until
from tests.support.nodes import NodeProcess, running_nodes, start_node
from tests.support.process_memory import overwrite
from tests.support.services import apply, patient_client, running_service, wait_until_serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into the memory of processes")

PROMPT = "The capital of France"
TOKENS = 100
DAMAGED = 2
"""The unit that is."""
SLOW = ("--emulate-speed", "0.03", "--check-every", "0.5")
"""An answer takes a second or two."""


class World(NamedTuple):
    client: Client
    nodes: dict[str, NodeProcess]
    broker_url: str
    model: Model
    token_ids: list[int]
    """What whole weights answer."""


@pytest.fixture
def world(mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path) -> Iterator[World]:
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path / "data", models_dir=tiny_store.home, model="tiny",
        min_nodes=4, context_tokens=128, slots=2, wire_dtype="fp32",
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(running_service(config))
        nodes = stack.enter_context(running_nodes("abcd", mosquitto.url, tmp_path, *SLOW))
        client = stack.enter_context(patient_client(mosquitto.url))
        wait_until_serving(client)
        model = tiny_store.open("tiny")
        yield World(client, nodes, mosquitto.url, model, ask(client))


def ask(client: Client, meanwhile: Callable[[], None] = lambda: None, patience_s: float = 120.0) -> list[int]:
    """The answer's tokens; ``meanwhile`` is done when it has begun."""
    answer = client.ask(prompt=PROMPT, max_tokens=TOKENS, patience_s=patience_s)
    for index, _ in enumerate(answer):
        if index == 2:
            meanwhile()
    assert len(answer.token_ids) == TOKENS
    return list(answer.token_ids)


def damage(world: World, node: str, how: Callable[[np.ndarray], None]) -> None:
    """Change weights of a block where the node's ONNX Runtime has them: in its memory, packed for its kernels.

    Packed or not, sixteen neighbours of a row stay side by side.
    """
    (blob,) = [blob for blob in world.model.manifest.blobs if blob.units == (DAMAGED,)]
    before = np.fromfile(world.model.blobs_folder / blob.sha256, np.float32).reshape(-1, 16)
    row = before[len(before) // 2].copy()
    how(row)
    assert overwrite(world.nodes[node].pid, before[len(before) // 2].tobytes(), row.tobytes())


def flip_a_bit_on_disk(world: World, node: str) -> None:
    """In the node's copy of a block's weights."""
    (blob,) = [blob for blob in world.model.manifest.blobs if blob.units == (DAMAGED,)]
    weights = np.memmap(world.nodes[node].home / "blobs" / blob.sha256, np.uint8, "r+")
    weights[1000] ^= 1
    weights.flush()


def one_bit(row: np.ndarray) -> None:
    """Not the last one, which may be lost when a product is rounded: then nothing has changed."""
    row[3:4].view(np.uint32)[:] ^= 1 << 8


def zeros(row: np.ndarray) -> None:
    row[:] = 0


def not_a_number(row: np.ndarray) -> None:
    row[5] = np.nan


def view_of(client: Client, node: str) -> NodeView:
    (view,) = [view for view in client.nodes().nodes if view.node == node]
    return view


def holder(client: Client) -> StageView:
    """The stage with the block that is damaged; most often it is the only one."""
    (stage,) = [stage for stage in client.plan().stages if stage.start <= DAMAGED < stage.stop]
    return stage


def await_set_apart(client: Client, node: str) -> str:
    """Wait until a node is given no layers; why."""
    until(f"{node} is set apart", lambda: bool(view_of(client, node).drained), timeout_s=30)
    return view_of(client, node).drained


def await_online(client: Client, node: str) -> None:
    def is_there() -> bool:
        view = view_of(client, node)
        return view.state == "online" and not view.drained

    until(f"{node} is there", is_there)


def test_readers_see_nothing_of_damaged_weights(world: World) -> None:
    client = world.client
    victims = []
    for how in (one_bit, zeros):
        stage = holder(client)
        victims.append(stage.node)
        damage(world, stage.node, how)
        assert "has changed since it was loaded" in await_set_apart(client, stage.node)
        wait_until_serving(client)
        assert ask(client) == world.token_ids

    # In the middle of an answer: it goes on with another node.
    stage = holder(client)
    victims.append(stage.node)
    assert ask(client, lambda: damage(world, stage.node, not_a_number)) == world.token_ids
    assert "nan" in await_set_apart(client, stage.node)
    wait_until_serving(client)
    stage = holder(client)
    assert {*victims, stage.node} == set("abcd")
    kinds = [event.kind for event in client.past_events().events]
    assert kinds.count("set_apart") == 3

    # The first one starts again: what it has on disk is read, and fetched again.
    again = world.nodes[victims[0]]
    again.end()
    flip_a_bit_on_disk(world, again.name)
    world.nodes[again.name] = start_node(again.name, world.broker_url, again.home, *SLOW, "--check-every", "0")
    await_online(client, again.name)
    apply(client, pins=[["ends", stage.node], ["0-3", again.name]])
    assert ask(client) == world.token_ids
    assert "is damaged on this device's disk: it is fetched again" in again.log()

    # It looks only when something is not a number. No plan is possible without it: who asks is told why.
    with pytest.raises(AnswerFailed) as failed:
        ask(client, lambda: damage(world, again.name, not_a_number), patience_s=0.0)
    assert f"{again.name}: its answer to a known input has changed" in str(failed.value)
