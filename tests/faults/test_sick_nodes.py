"""Nodes that are there and of no use: they are set apart by name and with the reason, and readers notice nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from tests.support.nodes import NodeProcess, running_nodes, start_node
from tests.support.services import apply, patient_client, running_service, wait_until_serving

PROMPT = "The capital of France"
TOKENS = 40
SICK = "sick"


class World(NamedTuple):
    client: Client
    broker_url: str
    folder: Path
    token_ids: list[int]
    """What well nodes answer."""


@pytest.fixture
def world(mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path) -> Iterator[World]:
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path / "data", models_dir=tiny_store.home, model="tiny",
        min_nodes=2, context_tokens=128, slots=2, wire_dtype="fp32",
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(running_service(config))
        stack.enter_context(running_nodes("ab", mosquitto.url, tmp_path, "--emulate-speed", "0.05"))
        client = stack.enter_context(patient_client(mosquitto.url))
        wait_until_serving(client)
        apply(client, objective="throughput", pins=[["embed", "a"], ["head", "b"]])
        yield World(client, mosquitto.url, tmp_path, ask(client))


@contextmanager
def sick_node(world: World, kind: str) -> Iterator[NodeProcess]:
    """One so much quicker than the others that every plan has it in the middle."""
    module = ("tests.support.sick_node", kind)
    node = start_node(SICK, world.broker_url, world.folder / SICK, "--emulate-speed", "0.7", module=module)
    try:
        yield node
    finally:
        node.end()


def ask(client: Client) -> list[int]:
    answer = client.ask(prompt=PROMPT, max_tokens=TOKENS)
    for _ in answer:
        pass
    assert len(answer.token_ids) == TOKENS
    return list(answer.token_ids)


def await_event(client: Client, kind: str, node: str) -> str:
    """The text of an event about a node, once there is one."""
    while not (
        texts := [event.text for event in client.past_events().events if (event.kind, event.node) == (kind, node)]
    ):
        client.nodes()
    return texts[-1]


def why_left_out(client: Client) -> str:
    (view,) = [view for view in client.nodes().nodes if view.node == SICK]
    return view.drained


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("computes_nan", "it computed is NaN or infinite (2 steps failed)"),
        ("sends_nan", "it sent b what is not finite"),
    ],
)
def test_requests_go_on_without_a_node_whose_results_are_no_numbers(world: World, kind: str, reason: str) -> None:
    client = world.client
    with sick_node(world, kind):
        while SICK not in {stage.node for stage in client.plan().stages}:
            client.nodes()
        assert ask(client) == world.token_ids
        assert reason in await_event(client, "set_apart", SICK)
        assert reason in why_left_out(client)
        wait_until_serving(client)
        assert SICK not in {stage.node for stage in client.plan().stages}
        assert ask(client) == world.token_ids
