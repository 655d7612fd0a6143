"""Both ends of the ring pinned to one node: the text is the same, and nobody else can read a token or a word."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.bus import Delivery, Subscribed
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from schemas.codec import Kind, decode_frames
from schemas.messages import OpenRequest, decode
from schemas.topics import NODE_COMMAND, REQUEST_STREAM, SEGMENT, TOKEN
from tests.support.members import as_member, as_orchestrator
from tests.support.nodes import running_nodes
from tests.support.polling import DEADLINE_S, collect, deliveries
from tests.support.services import apply, patient_client, running_service, wait_until_serving

OWNER, OTHERS = "owner", ("helper", "bystander")
PROMPT = "The capital of France"


@dataclass
class Spy:
    """Reads, with a node's name, everything that the broker lets that node read."""

    bus: MqttBus
    heard: list[Delivery] = field(default_factory=list)

    def listen(self, timeout_s: float = 0.0) -> None:
        self.heard += [event for event in self.bus.poll(timeout_s) if isinstance(event, Delivery)]

    def everything(self) -> list[Delivery]:
        """What arrived, until it has been quiet for a while."""
        before = -1
        while len(self.heard) > before:
            before = len(self.heard)
            self.listen(0.2)
        return self.heard


@pytest.fixture
def url(mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path) -> Iterator[str]:
    """A broker with an orchestrator that serves the tiny model on three nodes."""
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path / "data", models_dir=tiny_store.home,
        model="tiny", min_nodes=3, context_tokens=128, slots=2, wire_dtype="fp32",
    )  # fmt: skip
    with running_service(config), running_nodes([OWNER, *OTHERS], mosquitto.url, tmp_path):
        yield mosquitto.url


def test_nobody_else_reads_tokens_or_text_and_the_text_is_the_same(url: str) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(patient_client(url))
        wait_until_serving(client)
        plain = client.ask(prompt=PROMPT, max_tokens=24)
        plain_text = "".join(plain)

        pins = [["ends", OWNER], ["0-3", "helper"]]
        assert apply(client, pins=pins)
        ring = client.plan().stages
        assert [stage.node for stage in ring] == [OWNER, "helper", OWNER]

        spies = {}
        for name in OTHERS:
            spy = Spy(
                stack.enter_context(MqttBus(as_member(url, name, "node"), client_id=f"spy-{secrets.token_hex(4)}"))
            )
            spy.bus.connect()
            spy.bus.subscribe(["linguabus/v1/#", "#"], qos=1)
            spies[name] = spy
        for spy in spies.values():
            spy.listen(0.2)

        answer = client.ask(prompt=PROMPT, max_tokens=24)
        assert "".join(answer) == plain_text
        assert answer.token_ids == plain.token_ids
        assert len(answer.token_ids) == 24

        for name, spy in spies.items():
            check_ignorance(name, spy.everything(), plain_text)
        assert any(SEGMENT.match(delivery.topic) for delivery in spies["helper"].heard), "the spy hears what it may"


def check_ignorance(name: str, heard: list[Delivery], text: str) -> None:
    """Nothing that was heard has a token id, the prompt or the answer in it."""
    assert heard, "at least the retained plan"
    for delivery in heard:
        assert not TOKEN.match(delivery.topic)
        assert not REQUEST_STREAM.match(delivery.topic)
        assert PROMPT.encode() not in delivery.payload
        assert text.strip()[:12].encode() not in delivery.payload
        place = SEGMENT.match(delivery.topic)
        if place:
            assert place["receiver"] == name
            assert all(frame.kind is Kind.ACTIVATION for frame in decode_frames(delivery.payload))
        if NODE_COMMAND.match(delivery.topic):
            command = decode(delivery.payload, *NODE_COMMAND.messages)
            assert not isinstance(command, OpenRequest) or command.prompt_ids is None


def test_a_node_can_speak_for_nobody_else(mosquitto: LocalBroker) -> None:
    forged = SEGMENT.format(pipeline="main", epoch="1-1", stage=0, sender="helper", receiver=OWNER)
    honest = SEGMENT.format(pipeline="main", epoch="1-1", stage=0, sender="bystander", receiver=OWNER)
    with (
        MqttBus(as_orchestrator(mosquitto.url), client_id="watcher") as watcher,
        MqttBus(as_member(mosquitto.url, "bystander", "node"), client_id="forger") as forger,
    ):
        watcher.connect()
        watcher.subscribe([SEGMENT.filter()], qos=1)
        collect(watcher, lambda events: any(isinstance(event, Subscribed) for event in events), DEADLINE_S)
        forger.connect()
        for topic in (forged, honest):
            forger.publish(topic, b"x", qos=1)
        forger.flush(DEADLINE_S)
        heard = collect(watcher, lambda events: bool(deliveries(events)), DEADLINE_S)
        assert [delivery.topic for delivery in deliveries(heard)] == [honest]
