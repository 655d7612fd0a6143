"""Floods of members and strangers, on an open broker: one reader's answer and the real nodes are the same as ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from broker.bus import Event
from broker.mqtt import MqttBus
from orchestrator.client import Answer
from orchestrator.fleet.arrivals import MOST_NODES, NEW_NODES
from schemas.messages import ChatMessage, Epoch, NodeStatus, StreamError, decode, encode
from schemas.topics import (
    CLIENT_WILL,
    CONTROL_SUBMIT,
    NODE_BIRTH,
    NODE_HEARTBEAT,
    NODE_REPLY,
    NODE_STATUS,
    ORCHESTRATOR_STATUS,
    PLAN,
    REQUEST_CANCEL,
    REQUEST_RENEW,
    REQUEST_STREAM,
    REQUEST_SUBMIT,
    TOKEN,
)
from tests.support.configured_broker import configured_broker
from tests.support.mqtt_packets import encode_length
from tests.support.polling import DEADLINE_S, collect, deliveries, subscribe
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import answer_text, make_birth, make_submit
from tests.support.scripted_service import QUICK, ScriptedService
from tests.support.services import patient_client

REAL = "abcd"
TOKENS = 40
HEARD = (
    NODE_BIRTH, NODE_STATUS, NODE_HEARTBEAT, NODE_REPLY, PLAN, ORCHESTRATOR_STATUS, TOKEN, REQUEST_SUBMIT,
    REQUEST_CANCEL, REQUEST_RENEW, CLIENT_WILL, CONTROL_SUBMIT,
)  # fmt: skip
"""Everything that an orchestrator hears."""
NAMES = {
    "node": "stranger", "client": "stranger", "sender": "stranger", "receiver": "a", "request": "0" * 16,
    "pipeline": "main", "epoch": "1-1",
}  # fmt: skip


def connected(url: str, client_id: str) -> MqttBus:
    bus = MqttBus(url, client_id=client_id)
    bus.connect()
    return bus


class World:
    """A broker that takes everybody and everything, real nodes, an orchestrator, and a reader in the middle of an
    answer."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self.url = url
        self.fleet = stack.enter_context(ScriptedFleet(connected(url, "nodes"), [make_birth(name) for name in REAL]))
        self.fleet.most_tokens, self.fleet.tells_stages = 4, True
        self._folder = folder
        self.serve()
        stack.callback(lambda: self.service.end())
        self.operator = stack.enter_context(patient_client(url))
        self.reader = stack.enter_context(patient_client(url))
        self.stranger = stack.enter_context(connected(url, "stranger"))
        self.answer: Answer = self.reader.ask([ChatMessage(role="user", content="hello")], max_tokens=TOKENS)
        self._pieces = iter(self.answer)
        self._begun = next(self._pieces)
        self.epoch = self._epoch()

    def serve(self) -> None:
        """Start the orchestrator, or another one after it has ended."""
        timing = replace(QUICK, adopt_s=DEADLINE_S)
        self.service = ScriptedService(connected(self.url, "orchestrator"), self._folder, TinyStore(), timing)

    def _epoch(self) -> Epoch:
        active = self.service.service.core.plane.pipeline.active
        assert active
        return active.plan.epoch

    def flood(self, topic: str, message: object) -> None:
        self.stranger.publish(topic, encode(message), qos=1)

    def finish(self) -> None:
        """All that was sent has arrived; the answer goes on, and is what it would have been."""
        assert self.stranger.flush(DEADLINE_S)
        self.operator.status()
        self.fleet.most_tokens = None
        assert self._begun + "".join(self._pieces) == answer_text(5, TOKENS)
        nodes = {view.node: view for view in self.operator.nodes().nodes}
        assert [nodes[name].state for name in REAL] == ["online"] * 4
        assert self.service.error is None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        port = stack.enter_context(configured_broker(tmp_path))
        yield World(f"mqtt://127.0.0.1:{port}", tmp_path, stack)


def test_a_thousand_false_births_of_many_names_and_of_one(world: World) -> None:
    world.flood(NODE_BIRTH.format(node="deaf"), make_birth("deaf", max_message_bytes=0))
    for number in range(1000):
        name = f"false-{number}"
        world.flood(NODE_BIRTH.format(node=name), make_birth(name, memory_mb=100_000, speed_flops=1e15))
        again = make_birth("again", incarnation=number, memory_mb=100_000)
        world.flood(NODE_BIRTH.format(node="again"), again)
        online = NodeStatus(node="again", incarnation=number, online=True)
        world.flood(NODE_STATUS.format(node="again"), online)
    world.finish()
    assert len(world.service.service.core.plane.fleet.nodes) < 2 * NEW_NODES.burst


def test_a_thousand_questions_of_one_client(world: World) -> None:
    subscribe(world.stranger, REQUEST_STREAM.filter(client="stranger"), qos=1)
    for number in range(1000):
        question = make_submit(client="stranger", request=f"{number:016x}", patience_s=60.0)
        world.flood(REQUEST_SUBMIT.format(client="stranger"), question)
    for reason in ("what is left is for others: ask again", "questions a second: ask again in 1 s"):
        collect(world.stranger, lambda events, reason=reason: any(reason in told for told in refused(events)))
    world.finish()


def refused(events: list[Event]) -> list[str]:
    """What a client was told that is to ask again later."""
    said = [delivery.payload for delivery in deliveries(events) if b"stream.error" in delivery.payload]
    errors = [decode(payload, StreamError) for payload in said]
    return [error.reason for error in errors if error.code == "busy"]


def test_messages_of_ten_megabytes(world: World) -> None:
    """The broker takes them and keeps them from the orchestrator, as that has asked it to."""
    bus = world.service.bus
    before = bus.stats.bytes_in
    world.stranger._max_packet_bytes = world.stranger._max_payload_bytes = world.stranger._found_payload_bytes = 1 << 28
    for topic in HEARD:
        world.stranger.publish(topic.format(**NAMES), b"[" * 10_000_000, qos=1)
    world.finish()
    assert bus.stats.bytes_in - before < 1_000_000
    assert bus.stats.reconnects == 0


def test_ten_thousand_stored_messages_on_everything_that_is_heard_at_the_start(world: World) -> None:
    world.service.crash()
    store_junk(world.url, 10_000)
    world.serve()
    assert len(world.service.service.core.plane.fleet.nodes) <= MOST_NODES
    world.finish()
    assert world._epoch() == world.epoch, "the ring that an earlier start left went on"


def store_junk(url: str, count: int) -> None:
    """Store so many messages on everything that is heard, some of which could be real, of names that nobody has."""
    host, port = url.removeprefix("mqtt://").split(":")
    birth, status = encode(make_birth("NAME")), encode(NodeStatus(node="NAME", incarnation=1, online=True))
    submit = encode(make_submit(client="NAME"))
    payloads = {NODE_BIRTH: birth, NODE_STATUS: status, REQUEST_SUBMIT: submit}
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x00" + text("storing")))
        assert stranger.recv(4)[3] == 0
        for number in range(count):
            name = f"junk-{number}"
            names = dict.fromkeys(NAMES, name) | {"request": f"{number:016x}", "epoch": "1-1"}
            stored = (
                packet(0x31, text(topic.format(**names)) + payloads.get(topic, b"junk").replace(b"NAME", name.encode()))
                for topic in HEARD
                if topic is not ORCHESTRATOR_STATUS
            )
            stranger.sendall(b"".join(stored))
        stranger.sendall(packet(0xE0, b""))
        assert stranger.recv(1) == b""  # all is stored


def packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + encode_length(len(body)) + body


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()
