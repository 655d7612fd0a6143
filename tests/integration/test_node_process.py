"""Real node processes at a real Mosquitto: their life, their death, and what may not disturb them."""

from __future__ import annotations

import dataclasses
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from broker.bus import Delivery
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from orchestrator.model.model import Model
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION, messages
from schemas.codec import Dtype, Flag, Frame, Kind, encode_frame, request_number
from schemas.messages import CloseRequest, Heartbeat, NodeBirth, NodeStatus, Plan, RefuseNode, RegisterAgain
from schemas.topics import NODE_BIRTH, NODE_COMMAND, NODE_HEARTBEAT, NODE_STATUS, PLAN, SEGMENT, TOKEN
from tests.support.members import as_orchestrator
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.ring import PIPELINE, Ring, even_cuts

NAMES = ("alfa", "bravo")
PROMPT = list(range(7, 40))
Message = TypeVar("Message")


class Listener:
    """Hears births, status messages and heartbeats; may say anything."""

    def __init__(self, broker_url: str) -> None:
        self.bus = MqttBus(as_orchestrator(broker_url), client_id=f"listener-{secrets.token_hex(4)}")
        self.heard: list[Any] = []

    def __enter__(self) -> Listener:
        self.bus.connect()
        self.bus.subscribe([NODE_BIRTH.filter(), NODE_STATUS.filter(), NODE_HEARTBEAT.filter()])
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def wait(self, kind: type[Message], condition: Callable[[Message], bool] = lambda message: True) -> Message:
        """The first such message that was not waited for before."""
        end_s = time.monotonic() + DEADLINE_S
        while True:
            for message in self.heard:
                if isinstance(message, kind) and condition(message):
                    self.heard.remove(message)
                    return message
            left_s = end_s - time.monotonic()
            assert left_s > 0, f"no such {kind.__name__}"
            for event in self.bus.poll(left_s):
                if isinstance(event, Delivery):
                    self.heard.append(messages.decode(event.payload, NodeBirth, NodeStatus, Heartbeat))

    def say(self, topic: str, payload: bytes) -> None:
        self.bus.publish(topic, payload, qos=1)

    def command(self, node: str, message: Any) -> None:
        self.say(NODE_COMMAND.format(node=node), messages.encode(message))


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    with running_nodes(NAMES, mosquitto.url, tmp_path) as running:
        yield running


@pytest.fixture
def listener(mosquitto: LocalBroker) -> Iterator[Listener]:
    with Listener(mosquitto.url) as hearing:
        yield hearing


def deploy(ring: Ring, nodes: dict[str, NodeProcess], model: Model, **options: Any) -> Plan:
    homes = {name: node.home for name, node in nodes.items()}
    return ring.deploy(homes, even_cuts(model.manifest.num_units, len(nodes)), context_tokens=128, **options)


def test_birth_answer_release_and_a_clean_end(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], listener: Listener, tiny_model: Model
) -> None:
    birth = listener.wait(NodeBirth, lambda birth: birth.node == "alfa")
    assert (birth.protocol, birth.package_version, birth.threads) == (PROTOCOL_VERSION, PACKAGE_VERSION, 1)
    assert birth.memory_bytes > birth.overhead_bytes > 10_000_000
    assert birth.speed_flops > 1e6
    assert 0 < birth.hop_s < 1
    with Ring(mosquitto.url, tiny_model) as ring:
        plan = deploy(ring, nodes, tiny_model, chunk_tokens=16)
        answers = [ring.open(PROMPT, 12), ring.open(PROMPT[:9], 12)]
        for answer in answers:
            ring.finish(answer)
            assert len(answer.ids) == 12
            assert answer.finish is Flag.LENGTH
        assert [answers[0].timings[stage].positions for stage in (0, 1)] == [len(PROMPT) + 11] * 2
        assert ring.ask(PROMPT, 12).ids == answers[0].ids
        heartbeat = listener.wait(Heartbeat, lambda beat: beat.node == "bravo" and bool(beat.stages))
        assert heartbeat.incarnation == ring.births["bravo"].incarnation
        assert heartbeat.blob_bytes > 0
        assert 0 < heartbeat.rss_bytes <= heartbeat.peak_rss_bytes
        assert heartbeat.frames_rejected == heartbeat.frames_dropped == heartbeat.reconnects == 0
        down = dataclasses.replace(plan, ring=())
        listener.say(PLAN.format(pipeline=PIPELINE), messages.encode(down))
        listener.wait(Heartbeat, lambda beat: beat.node == "bravo" and not beat.stages)
    assert nodes["alfa"].end() == 0
    status = listener.wait(NodeStatus, lambda status: not status.online)
    assert (status.node, status.incarnation, status.reason) == ("alfa", birth.incarnation, "stopped")
    assert nodes["bravo"].end(signal.SIGINT) == 0
    assert "Traceback" not in nodes["alfa"].log() + nodes["bravo"].log()


def test_a_killed_node_is_offline_by_its_will(nodes: dict[str, NodeProcess], listener: Listener) -> None:
    birth = listener.wait(NodeBirth, lambda birth: birth.node == "bravo")
    nodes["bravo"].end(signal.SIGKILL)
    status = listener.wait(NodeStatus, lambda status: not status.online)
    assert (status.node, status.incarnation, status.reason) == ("bravo", birth.incarnation, "connection lost")


def test_a_node_with_layers_says_that_it_leaves_and_ends_without_them(
    mosquitto: LocalBroker, tmp_path: Path, listener: Listener, tiny_model: Model
) -> None:
    with (
        running_nodes(NAMES, mosquitto.url, tmp_path, "--drain-timeout", "300") as nodes,
        Ring(mosquitto.url, tiny_model) as ring,
    ):
        plan = deploy(ring, nodes, tiny_model)
        expected = ring.ask(PROMPT, 12).ids
        nodes["alfa"].process.send_signal(signal.SIGTERM)
        leaving = listener.wait(NodeStatus, lambda status: status.leaving)
        assert (leaving.node, leaving.online, leaving.reason) == ("alfa", True, "asked to stop")
        assert ring.ask(PROMPT, 12).ids == expected
        listener.wait(Heartbeat, lambda beat: beat.node == "alfa" and beat.rtt_s is not None)
        listener.say(PLAN.format(pipeline=PIPELINE), messages.encode(dataclasses.replace(plan, ring=())))
        assert nodes["alfa"].process.wait(DEADLINE_S) == 0
        status = listener.wait(NodeStatus, lambda status: not status.online)
        assert (status.node, status.reason) == ("alfa", "stopped")
        said = [line for line in nodes["alfa"].log().splitlines() if line.startswith("node alfa: ")]
        assert [line.partition(", ")[0] for line in said] == [
            "node alfa: registered: it waits for layers",
            "node alfa: runs embed",
            "node alfa: hands its layers to others and ends",
            "node alfa: it has no layers now",
            "node alfa: it holds no layers: it ends",
        ]


@pytest.mark.parametrize(("patience", "signals"), [("300", 2), ("0.2", 1), ("0", 1)])
def test_a_node_ends_with_layers_when_told_twice_or_time_is_up(
    patience: str, signals: int, mosquitto: LocalBroker, tmp_path: Path, listener: Listener, tiny_model: Model
) -> None:
    with running_nodes(NAMES, mosquitto.url, tmp_path, each={"bravo": ("--drain-timeout", patience)}) as nodes:
        with Ring(mosquitto.url, tiny_model) as ring:
            deploy(ring, nodes, tiny_model)
        for count in range(signals):
            if count:
                listener.wait(NodeStatus, lambda status: status.leaving)
            nodes["bravo"].process.send_signal(signal.SIGINT)
        assert nodes["bravo"].process.wait(DEADLINE_S) == 0
        assert listener.wait(NodeStatus, lambda status: not status.online).node == "bravo"


def test_register_again_and_refusal(nodes: dict[str, NodeProcess], listener: Listener) -> None:
    birth = listener.wait(NodeBirth, lambda birth: birth.node == "alfa")
    listener.wait(Heartbeat, lambda beat: beat.node == "alfa")
    listener.command("alfa", RegisterAgain())
    again = listener.wait(NodeBirth, lambda birth: birth.node == "alfa")
    assert dataclasses.replace(again, storage_bytes=birth.storage_bytes) == birth, "others write to the disk meanwhile"
    listener.command("alfa", RefuseNode(incarnation=birth.incarnation + 1, reason="meant for another one"))
    listener.command("alfa", RegisterAgain())
    listener.wait(NodeBirth, lambda birth: birth.node == "alfa")
    listener.command("alfa", RefuseNode(incarnation=birth.incarnation, reason="upgrade with: pip install -U linguabus"))
    assert nodes["alfa"].process.wait(DEADLINE_S) == 2
    assert nodes["alfa"].log().splitlines()[-1] == "Error: upgrade with: pip install -U linguabus"


def test_a_restarted_broker_gets_the_nodes_back(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_model: Model
) -> None:
    with Ring(mosquitto.url, tiny_model) as ring:
        deploy(ring, nodes, tiny_model)
        before = ring.ask(PROMPT, 10)
    incarnations = {name: birth.incarnation for name, birth in ring.births.items()}
    mosquitto.restart()
    with Listener(mosquitto.url) as listener:
        for name in NAMES:
            birth = listener.wait(NodeBirth, lambda birth, name=name: birth.node == name)  # type: ignore[misc]
            assert birth.incarnation == incarnations[name]
            listener.wait(Heartbeat, lambda beat, name=name: beat.node == name and beat.reconnects == 1)  # type: ignore[misc]
    with Ring(mosquitto.url, tiny_model) as ring:
        ring._counter = 1  # the epoch before is still loaded
        deploy(ring, nodes, tiny_model)
        assert ring.ask(PROMPT, 10).ids == before.ids
    assert all(node.process.poll() is None for node in nodes.values())


def mutations(good: bytes) -> Iterator[bytes]:
    """Damaged forms of a frame."""
    generator = random.Random(4)
    for length in (0, 1, 43, 44, len(good) - 1):
        yield good[:length]
    yield good + b"x"
    yield generator.randbytes(200)
    for _ in range(60):
        damaged = bytearray(good)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        yield bytes(damaged)


def test_malformed_messages_are_counted_and_do_no_harm(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], listener: Listener, tiny_model: Model
) -> None:
    with Ring(mosquitto.url, tiny_model) as ring:
        plan = deploy(ring, nodes, tiny_model)
        expected = ring.ask(PROMPT, 8).ids
        answer = ring.open(PROMPT, 40)
        good = bytes(
            encode_frame(
                Frame(
                    kind=Kind.TOKENS, request=request_number(answer.request), epoch=plan.epoch, attempt=0, position=50,
                    count=1, dtype=Dtype.INT32, payload=bytes(4),
                )
            )
        )  # fmt: skip
        sent = 0
        topic = SEGMENT.format(pipeline=PIPELINE, epoch=plan.epoch, stage=0, sender="bravo", receiver="alfa")
        for payload in mutations(good):
            listener.say(topic, payload)
            sent += 1
        command = messages.encode(CloseRequest(request=answer.request))
        other_version = command.replace(b'"v":1', b'"v":2')
        for payload in (b"", b"{", b"null", b"[" * 100_000, b"\xff\xfe{}", other_version, command[:-1]):
            listener.say(NODE_COMMAND.format(node="alfa"), payload)
            listener.say(PLAN.format(pipeline=PIPELINE), payload or b"0")
            sent += 2
        beat = listener.wait(Heartbeat, lambda beat: beat.node == "alfa" and beat.frames_rejected >= sent)
        assert beat.frames_rejected == sent
        assert ring.finish(answer).ids[:8] == expected
    assert "Traceback" not in nodes["alfa"].log()
    assert nodes["alfa"].log().count("counted from now on") <= 10, "each kind of error is logged once"


def test_wellformed_nonsense_does_no_harm(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], listener: Listener, tiny_model: Model
) -> None:
    """Frames that add up, from the right sender, with values that no honest node sends."""
    with Ring(mosquitto.url, tiny_model) as ring:
        plan = deploy(ring, nodes, tiny_model)
        expected = ring.ask(PROMPT, 30).ids
        answer = ring.open(PROMPT, 30)
        number = request_number(answer.request)
        del ring.answers[number]  # the test's own listener must not take what follows for the answer
        token = TOKEN.format(pipeline=PIPELINE, epoch=plan.epoch, sender="bravo", receiver=plan.ring[0].node)
        into_bravo = SEGMENT.format(pipeline=PIPELINE, epoch=plan.epoch, stage=1, sender="alfa", receiver="bravo")
        width = tiny_model.segment(0, plan.ring[0].stop).width_out or 0
        for position in range(len(PROMPT), len(PROMPT) + 40):
            for value in (10**9, -1):
                tokens = Frame(
                    kind=Kind.TOKENS, request=number, epoch=plan.epoch, attempt=0, position=position, count=1,
                    dtype=Dtype.INT32, payload=value.to_bytes(4, "little", signed=True),
                )  # fmt: skip
                listener.bus.publish(token, encode_frame(tokens))
        for position, count in ((0, 129), (127, 2), (5000, 1)):
            far = Frame(
                kind=Kind.ACTIVATION, request=number, epoch=plan.epoch, attempt=2**32 - 1, position=position,
                count=count, width=width, dtype=Dtype.FP32, payload=bytes(4 * count * width),
            )  # fmt: skip
            listener.bus.publish(into_bravo, encode_frame(far))
        listener.wait(Heartbeat, lambda beat: beat.node == "bravo" and beat.frames_dropped >= 3)
        listener.wait(Heartbeat, lambda beat: beat.node == "alfa" and beat.frames_dropped >= 40)
        del ring.births["alfa"]
        listener.command("alfa", RegisterAgain())
        ring.wait("birth, after all of that", lambda: "alfa" in ring.births)
        ring.answers[number] = answer
        ring.close_request(answer)
        assert ring.ask(PROMPT, 30).ids == expected
    assert all(node.process.poll() is None for node in nodes.values())
