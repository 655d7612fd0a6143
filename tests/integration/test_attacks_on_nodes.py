"""Attacks on a node that runs: by servers that pose as the fleet's, and by one who may command it."""

from __future__ import annotations

import hashlib
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from onnx import NodeProto, TensorProto, helper

from broker.bus import Delivery, Refused
from broker.credential import FILE
from broker.errors import BrokerUnreachable
from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.identity.authority import make_authority, make_server
from orchestrator.model.store import ModelStore
from schemas.codec import Dtype, Flag, Frame, Kind, encode_frame, request_number
from schemas.messages import (
    BlobRef,
    CancelRequest,
    ClientWill,
    Epoch,
    Heartbeat,
    Plan,
    PrepareSegment,
    RenewRequest,
    SegmentFailed,
    StageRef,
    decode,
    encode,
)
from schemas.roles import Role
from schemas.topics import (
    CLIENT_WILL,
    NODE_COMMAND,
    NODE_HEARTBEAT,
    NODE_REPLY,
    PLAN,
    REQUEST_CANCEL,
    REQUEST_RENEW,
    REQUEST_STREAM,
    SEGMENT,
    TOKEN,
)
from tests.support.certificates import write_certificate
from tests.support.false_hosts import false_host, tls_of
from tests.support.fleet_world import HOST, FleetWorld
from tests.support.nodes import NodeProcess, start_node
from tests.support.polling import DEADLINE_S, collect, deliveries, subscribe
from tests.support.served_fleet import served_fleet
from tests.support.services import apply, wait_until_serving

ROLES: dict[str, Role] = {
    "phone": "node", "tablet": "node", "thief": "node", "reader": "client", "stranger": "client", "owner": "operator",
}  # fmt: skip
PROMPT = "The capital of France"
MODEL = {"model": "tiny", "min_nodes": 2, "context_tokens": 128, "slots": 2, "wire_dtype": "fp32", "balance": False}
WIDTH, TOKENS = 64, 60
POSITIONS = range(8, 100)
CONNACK = b"\x20\x03\0\0\0"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    with served_fleet(tmp_path_factory.mktemp("attacked"), tiny_store, ROLES, **MODEL) as served:
        yield served


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, what()
        time.sleep(0.02)


# --- false hosts ------------------------------------------------------------------------------------------------


def server_of(kind: str, world: FleetWorld, folder: Path) -> ssl.SSLContext | None:
    """What a false host presents."""
    key, authority = (world.fleet.path / "authority.key").read_text(), world.fleet.authority
    texts: tuple[str, str]
    match kind:
        case "no TLS":
            return None
        case "old TLS":
            old = tls_of(world.fleet.server_file)
            old.set_ciphers("DEFAULT:@SECLEVEL=0")  # else it would not come to the question of the version
            with pytest.warns(DeprecationWarning, match="TLS"):
                old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
            return old
        case "another authority":
            texts = make_server(*make_authority(), [HOST])
        case "another host":
            texts = make_server(key, authority, ["192.0.2.9"])
        case "self-signed":
            own = write_certificate(folder, "own")
            texts = own.certificate.read_text(), own.key.read_text()
        case _:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("orchestrator.identity.authority.SERVER_DAYS", -0.5)
                texts = make_server(key, authority, [HOST])
    (folder / "server.pem").write_text("".join(texts))
    return tls_of(folder / "server.pem")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("another authority", "its certificate is not believed"),
        ("another host", "not valid for '127.0.0.1'"),
        ("self-signed", "its certificate is not believed"),
        ("expired", "expired"),
        ("old TLS", "TLS handshake failed"),
        ("no TLS", "TLS handshake failed"),
    ],
)
def test_no_false_host_is_told_a_key(world: FleetWorld, tmp_path: Path, kind: str, words: str) -> None:
    member = world.members["phone"]
    with false_host(server_of(kind, world, tmp_path), CONNACK) as host:
        with (
            MqttBus(replace(member, broker_port=host.port).broker(), client_id="n") as bus,
            pytest.raises(BrokerUnreachable, match=words) as failed,
        ):
            bus.connect(10)
        until(lambda: host.tried > 0, lambda: "it was not asked")
    assert str(failed.value).isprintable()
    assert member.key.encode() not in host.all
    assert member.name.encode() not in host.all


def test_a_node_says_in_a_line_why_it_does_not_believe_a_host(world: FleetWorld, tmp_path: Path) -> None:
    with false_host(server_of("another host", world, tmp_path), CONNACK) as host:
        replace(world.members["phone"], broker_port=host.port).save(tmp_path / "home" / FILE)
        node = start_node("phone", None, tmp_path / "home")
        try:
            until(lambda: host.tried >= 2, node.log)  # it goes on trying
            (waits,) = node.log().splitlines()[1:]
        finally:
            node.end()
    assert waits.startswith("node phone: waits for the broker: ")
    assert "not valid for '127.0.0.1'" in waits
    assert host.all == b""


# --- an answer that is being computed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Ring:
    """The tiny model on two nodes, and who asks."""

    nodes: dict[str, NodeProcess]
    client: Client
    plan: Plan

    @property
    def ends(self) -> tuple[str, str]:
        """The nodes of the first stage and of the last."""
        return self.plan.ring[0].node, self.plan.ring[-1].node

    def ask(self, begun: Callable[[str], None] = lambda request: None) -> str:
        """An answer; ``begun`` is called with its request, and nodes compute nothing more before that is done."""
        answer = self.client.ask(prompt=PROMPT, max_tokens=TOKENS)
        pieces = iter(answer)
        next(pieces)
        for node in self.nodes.values():
            node.process.send_signal(signal.SIGSTOP)
        try:
            begun(answer.request)
        finally:
            for node in self.nodes.values():
                node.process.send_signal(signal.SIGCONT)
        for _ in pieces:
            pass
        assert answer.end
        assert answer.end.finish_reason == "length"
        return answer.text


@pytest.fixture(scope="module")
def ring(world: FleetWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    nodes = {}
    with ExitStack() as stack:
        for name in ("phone", "tablet"):
            home = tmp_path_factory.mktemp(name)
            world.members[name].save(home / FILE)
            nodes[name] = start_node(name, None, home, "--memory-limit-mb", "400", "--storage-limit-mb", "64")
            stack.callback(nodes[name].end)
        with Client.connect(world.members["owner"].broker()) as operator:
            wait_until_serving(operator)
            apply(operator, pins=[["embed", "phone"], ["0-1", "phone"], ["2-3", "tablet"], ["head", "tablet"]])
        bus = stack.enter_context(world.bus("reader"))
        client = stack.enter_context(Client(bus, name="reader", broker="", control_timeout_s=DEADLINE_S))
        with world.bus("phone", "looks") as looks:
            looks.subscribe([PLAN.filter()], qos=1)
            plans = collect(looks, lambda events: any(len(plan_of(said).ring) == 2 for said in deliveries(events)))
        yield Ring(nodes, client, plan_of(deliveries(plans)[-1]))


def plan_of(said: Delivery) -> Plan:
    return decode(said.payload, Plan)


def frames(ring: Ring, request: str, receiver: str) -> Iterator[bytes]:
    """What would end the answer, or make another one of it, if it came from the plan's predecessor."""
    told = {"request": request_number(request), "epoch": ring.plan.epoch, "attempt": 0, "count": 1}
    for position in POSITIONS:
        if receiver == ring.ends[0]:
            said = {"kind": Kind.TOKENS, "dtype": Dtype.INT32, "flags": Flag.LENGTH, "payload": bytes([9, 0, 0, 0])}
        else:
            said = {"kind": Kind.ACTIVATION, "dtype": Dtype.FP32, "width": WIDTH, "payload": bytes(4 * WIDTH)}
        yield bytes(encode_frame(Frame(**told, **said, position=position)))


def injections(ring: Ring, name: str) -> Iterator[tuple[str, str]]:
    """All topics of the answer's frames, in the name of whoever, and for whom they are."""
    first, last = ring.ends
    names = {"pipeline": "main", "epoch": ring.plan.epoch}
    for sender in sorted({name, first, last, "thief"}):
        yield TOKEN.format(**names, sender=sender, receiver=first), first
        yield SEGMENT.format(**names, stage=0, sender=sender, receiver=first), first
        yield SEGMENT.format(**names, stage=1, sender=sender, receiver=last), last


@pytest.mark.parametrize("name", ["thief", "stranger", "owner"])
def test_nobody_puts_tokens_or_states_into_an_answer(world: FleetWorld, ring: Ring, name: str) -> None:
    honest = ring.ask()
    with world.bus(name, "injects") as bus, world.bus("orchestrator", "watcher") as watcher:
        subscribe(watcher, NODE_HEARTBEAT.filter())

        def inject(request: str) -> None:
            for topic, receiver in injections(ring, name):
                for frame in frames(ring, request, receiver):
                    bus.publish(topic, frame, qos=1)
            assert bus.flush(DEADLINE_S)

        before = {node: heartbeat(watcher, node).frames_dropped for node in ring.ends}
        assert ring.ask(inject) == honest
        if (
            name == "thief"
        ):  # whose role lets him say such things in his own name: nodes listen to the plan's names alone
            for node in ring.ends:
                until(
                    lambda node=node: heartbeat(watcher, node).frames_dropped >= before[node] + len(POSITIONS),
                    lambda: "frames of others are not dropped",
                )
        assert len([event for event in bus.poll(0.0) if isinstance(event, Refused)]) > 0


def test_nobody_ends_renews_or_repeats_somebody_elses_request(world: FleetWorld, ring: Ring) -> None:
    honest = ring.ask()
    for name in ("thief", "stranger", "owner"):
        with world.bus(name, "ends") as bus:
            if name != "thief":
                subscribe(bus, REQUEST_STREAM.filter(client=name), qos=1)

            def end(request: str, bus: MqttBus = bus, name: str = name) -> None:
                ended, renewed = CancelRequest(request=request), RenewRequest(request=request, repeat=True)
                for client in (name, "reader"):
                    bus.publish(REQUEST_CANCEL.format(client=client, request=request), encode(ended), qos=1)
                    bus.publish(REQUEST_RENEW.format(client=client, request=request), encode(renewed), qos=1)
                bus.publish(
                    CLIENT_WILL.format(client="reader"),
                    encode(ClientWill(client="reader", connection=ring.client._connection)),
                    qos=1,
                )
                assert bus.flush(DEADLINE_S)

            assert ring.ask(end) == honest
            said = deliveries(bus.poll(0.0))
            assert not [delivery for delivery in said if b"stream.text" in delivery.payload]


def heartbeat(bus: MqttBus, node: str) -> Heartbeat:
    """The next one."""
    wanted = NODE_HEARTBEAT.format(node=node)
    found = collect(bus, lambda events: any(delivery.topic == wanted for delivery in deliveries(events)))
    return decode([delivery for delivery in deliveries(found) if delivery.topic == wanted][-1].payload, Heartbeat)


# --- one who may command it -------------------------------------------------------------------------------------


def refusal(world: FleetWorld, *urls: str, graph: bytes = b"graph", size_bytes: int = 0) -> str:
    """What the phone says to a command that has it load a graph."""
    command = PrepareSegment(
        pipeline="other", epoch=Epoch(generation=9, counter=1), stage=0,
        ring=(StageRef(node="phone", start=0, stop=1), StageRef(node="tablet", start=1, stop=6)), model="tiny",
        graph=BlobRef(sha256=hashlib.sha256(graph).hexdigest(), size_bytes=size_bytes or len(graph)), blobs=(),
        blob_urls=urls, kv_layers=(), width_in=0, width_out=WIDTH, vocab_size=256, context_tokens=64, slots=1,
        chunk_tokens=16, wire_dtype="fp32", planned_bytes=10**7,
    )  # fmt: skip
    with world.bus("orchestrator", "commands") as bus:
        subscribe(bus, NODE_REPLY.format(node="phone"), qos=1)
        bus.publish(NODE_COMMAND.format(node="phone"), encode(command), qos=1)
        failed: list[SegmentFailed] = []
        while not failed:
            said = collect(bus, lambda events: bool(deliveries(events)))
            replies = [decode(delivery.payload, *NODE_REPLY.messages) for delivery in deliveries(said)]
            failed += [reply for reply in replies if isinstance(reply, SegmentFailed) and reply.pipeline == "other"]
    assert failed[0].reason.isprintable()
    return failed[0].reason


def test_a_node_asks_no_other_host_and_takes_nothing_else_than_it_was_told(
    world: FleetWorld, ring: Ring, tmp_path: Path
) -> None:
    tls = tls_of(world.fleet.server_file)
    too_long = b"HTTP/1.1 200 OK\r\ncontent-length: 1500000000\r\n\r\n" + bytes(10**6)
    with ExitStack() as stack:
        never, plain = stack.enter_context(false_host(tls, b"")), stack.enter_context(false_host(None, b""))
        moved = f"HTTP/1.1 302 Found\r\nlocation: https://{HOST}:{never.port}/x\r\ncontent-length: 0\r\n\r\n"
        sends_on = stack.enter_context(false_host(tls, moved.encode()))
        sends_more = stack.enter_context(false_host(tls, too_long))
        unknown = stack.enter_context(false_host(server_of("another authority", world, tmp_path), b""))
        said = refusal(
            world,
            f"https://localhost:{never.port}/x",
            f"https://127.0.0.2:{never.port}/x",
            f"http://{HOST}:{plain.port}/x",
            *(f"https://{HOST}:{host.port}/x" for host in (sends_on, sends_more, unknown)),
        )
        assert "can't be fetched" in said
        assert never.tried == plain.tried == 0
        assert sends_on.tried == sends_more.tried == unknown.tried > 0
        assert unknown.all == b""
        assert "storage limit" in refusal(world, f"https://{HOST}:{never.port}/x", size_bytes=1_500_000_000)
        assert never.tried == 0
    assert world.members["phone"].key not in ring.nodes["phone"].log()


def graph(*nodes: NodeProto, weights: tuple[TensorProto, ...] = ()) -> bytes:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "graph", [value("x", TensorProto.FLOAT, ["B", 32])], [value("y", TensorProto.FLOAT, None)], weights
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def weights_in(file: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(32, 32), data_location=TensorProto.EXTERNAL)
    for key, value in {"location": file, "offset": "0", "length": "4096"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


GRAPHS = {
    "/etc/passwd": graph(helper.make_node("MatMul", ["x", "w"], ["y"]), weights=(weights_in("/etc/passwd"),)),
    "600000000 values": graph(
        helper.make_node("Constant", [], ["size"], value_ints=[600_000_000]),
        helper.make_node("ConstantOfShape", ["size"], ["y"]),
    ),
    "the operator Loop": graph(helper.make_node("Loop", ["", "x"], ["y"])),
    "com.example": graph(helper.make_node("Add", ["x", "x"], ["y"], domain="com.example")),
}


def test_a_node_that_serves_refuses_what_is_no_segment_and_serves_on(world: FleetWorld, ring: Ring) -> None:
    honest = ring.ask()
    for words, data in GRAPHS.items():
        answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
        with false_host(tls_of(world.fleet.server_file), answer) as host:
            said = refusal(world, f"https://{HOST}:{host.port}/x", graph=data)
        assert said.startswith("the graph is refused: ")
        assert words in said
    assert ring.ask() == honest
    phone = ring.nodes["phone"]
    assert phone.process.poll() is None
    assert "Traceback" not in phone.log()
