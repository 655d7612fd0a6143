"""A node with both ends of the ring goes on with its own tokens though the orchestrator's copies are lost."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from schemas.codec import decode_frames
from tests.support.mqtt_packets import Publish
from tests.support.mqtt_proxy import MqttProxy, Send, Side
from tests.support.nodes import running_nodes
from tests.support.services import apply, patient_client, running_service, wait_until_serving

OWNER, HELPER = "owner", "helper"
TOKENS_TOPIC = "linguabus/v1/token/#"
PROMPT = "The capital of France"
TOKENS = 24


class World(NamedTuple):
    """A ring from the owner over the helper back to the owner, the proxy before both, and what it answers."""

    client: Client
    proxy: MqttProxy
    token_ids: list[int]


@pytest.fixture
def world(mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path) -> Iterator[World]:
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path / "data", models_dir=tiny_store.home, model="tiny",
        min_nodes=2, context_tokens=128, slots=2, wire_dtype="fp32",
    )  # fmt: skip
    with ExitStack() as stack:
        proxy = stack.enter_context(MqttProxy(mosquitto.url))
        stack.enter_context(running_service(config))
        stack.enter_context(running_nodes([OWNER, HELPER], proxy.url, tmp_path))
        client = stack.enter_context(patient_client(mosquitto.url))
        wait_until_serving(client)
        apply(client, pins=[["ends", OWNER], ["0-3", HELPER]])
        assert [stage.node for stage in client.plan().stages] == [OWNER, HELPER, OWNER]
        yield World(client, proxy, ask(client))


def ask(client: Client) -> list[int]:
    answer = client.ask(prompt=PROMPT, max_tokens=TOKENS)
    list(answer)
    assert len(answer.token_ids) == TOKENS
    return list(answer.token_ids)


def test_the_answer_is_whole(world: World) -> None:
    sent: list[int] = []
    lost: set[int] = set()

    def lose_one_in_the_middle_and_the_last(publish: Publish) -> Iterable[Send]:
        """Once: what is sent again, on demand, arrives."""
        frames = decode_frames(publish.payload)
        positions = [frame.position + index for frame in frames for index in range(frame.count)]
        sent.extend(positions)
        hit = {position - sent[0] for position in positions} & ({8, TOKENS - 1} - lost)
        lost.update(hit)
        return [] if hit else [Send(publish)]

    world.proxy.rule(TOKENS_TOPIC, lose_one_in_the_middle_and_the_last)
    to_nodes = world.proxy.rule(TOKENS_TOPIC, lambda publish: [Send(publish)], side=Side.DOWN)
    assert ask(world.client) == world.token_ids
    assert lost == {8, TOKENS - 1}
    assert to_nodes.hits == 0, "the node had its tokens from itself"


def test_the_connection_breaks_with_a_token_under_way(world: World) -> None:
    cuts = []

    def cut_once(publish: Publish) -> Iterable[Send]:
        if not cuts:
            cuts.append(threading.Thread(target=world.proxy.cut))
            cuts[0].start()  # not from here: rules run inside the proxy's lock
        return []

    world.proxy.rule(TOKENS_TOPIC, cut_once, when=lambda _: not cuts)
    assert ask(world.client) == world.token_ids
    assert cuts
