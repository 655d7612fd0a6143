"""Attacks by numbers on a fleet that is served: connections, lengths and bytes that mean nothing."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from broker.bus import Disconnected
from broker.credential import FILE, Credential
from broker.errors import BrokerUnreachable
from broker.mqtt import MqttBus
from broker.tls import client_context
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from schemas.roles import Role
from schemas.topics import NODE_ECHO, REQUEST_SUBMIT, SEGMENT
from tests.support.fleet_world import HOST, FleetWorld
from tests.support.mqtt_packets import CONNECT, PUBLISH, encode_length
from tests.support.polling import DEADLINE_S, collect, deliveries, subscribe
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {"phone": "node", "stranger": "client"}
MOST_CONNECTIONS = 40
"""More take seconds: they are made faster than Mosquitto takes them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("flooded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.identity.broker_files.MOST_CONNECTIONS", MOST_CONNECTIONS)
        patch.setattr("orchestrator.identity.broker_files.MOST_MEMORY_BYTES", 32 << 20)
        with served_fleet(home, ModelStore(home / "models"), ROLES) as served:
            yield served


def test_who_fills_the_broker_locks_neither_orchestrator_nor_operator_out(world: FleetWorld) -> None:
    settings = world.fleet.settings
    own = Credential.load(world.fleet.path.parent / FILE)
    assert own
    topic = NODE_ECHO.format(node="phone")
    with world.bus("phone", "was-there-before") as member, ExitStack() as stack:
        subscribe(member, topic, qos=1)
        strangers = [
            stack.enter_context(socket.create_connection((HOST, settings.broker_port), DEADLINE_S))
            for _ in range(MOST_CONNECTIONS + 19)
        ]
        for stranger in strangers[MOST_CONNECTIONS - 1 :]:
            assert stranger.recv(1) == b""  # the broker has had enough of them
        with MqttBus(world.members["phone"].broker(), client_id="phone") as bus, pytest.raises(BrokerUnreachable):
            bus.connect(DEADLINE_S)
        with Client.connect(own.broker()) as operator:
            assert operator.nodes().nodes == ()
        member.publish(topic, b"still there", qos=1)
        events = collect(member, lambda events: bool(deliveries(events)))
        assert not [event for event in events if isinstance(event, Disconnected)]
    until_broker_takes(world, "phone")  # it may have taken some of those for alive a moment ago


def until_broker_takes(world: FleetWorld, name: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            with world.bus(name):
                return
        except BrokerUnreachable:
            assert time.monotonic() < end_s


def test_who_fills_the_brokers_memory_is_disconnected_and_others_go_on(world: FleetWorld) -> None:
    topics = [SEGMENT.format(pipeline="x", epoch="1-1", stage=n, sender="phone", receiver="phone") for n in range(30)]
    with other_that_goes_on(world), world.bus("orchestrator", "cleaner") as cleaner:
        with world.bus("phone", "greedy") as greedy:
            for topic in topics:
                greedy.publish(topic, b"x" * 1_700_000, retain=True)
            collect(greedy, lambda events: any(isinstance(event, Disconnected) for event in events))
        for topic in topics:
            cleaner.publish(topic, b"", qos=1, retain=True)
        assert cleaner.flush(DEADLINE_S)


# --- packets ----------------------------------------------------------------------------------------------------


def publish(topic: bytes, payload: bytes = b"") -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + b"\0\1" + payload
    return bytes([PUBLISH | 2]) + encode_length(len(body)) + body


def subscription(pattern: bytes) -> bytes:
    body = b"\0\1" + len(pattern).to_bytes(2, "big") + pattern + b"\1"
    return bytes([0x82]) + encode_length(len(body)) + body


OWN_TOPIC = REQUEST_SUBMIT.format(client="stranger").encode()
PACKETS = {
    "more than a packet may have": publish(OWN_TOPIC, bytes(2_100_000)),
    "200 MB announced": bytes([PUBLISH]) + encode_length(200_000_000) + bytes(100_000),
    "a length of five bytes": bytes([PUBLISH]) + b"\xff\xff\xff\xff\x7f",
    "a topic of 65,535 levels": publish(b"/" * 65_534),
    "a filter of 32,768 levels": subscription(b"+/" * 32_767 + b"+"),
    "NUL in a topic": publish(OWN_TOPIC + b"\0"),
    "NUL in a filter": subscription(b"\0"),
    "no UTF-8": publish(b"\xff\xfe" + OWN_TOPIC),
    "a kind that there is not": b"\x00\x00",
    "a second CONNECT": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
}


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())
def test_what_is_too_much_or_no_mqtt_ends_its_senders_connection_alone(world: FleetWorld, packet: bytes) -> None:
    with (
        other_that_goes_on(world),
        connection_of(world, "stranger") as attacker,
        contextlib.suppress(ConnectionError, ssl.SSLError),
    ):
        attacker.sendall(packet)
        attacker.settimeout(DEADLINE_S)
        assert attacker.recv(100) in (b"", b"\xe0\x02\x95\x00")  # MQTT 5: a packet that is too large


def test_many_who_do_not_speak_mqtt_disturb_nobody(world: FleetWorld) -> None:
    said = random.Random(1)
    address = (HOST, world.fleet.settings.broker_port)
    context = client_context(world.fleet.authority)
    with other_that_goes_on(world):
        for number in range(60):
            with contextlib.suppress(OSError), socket.create_connection(address, DEADLINE_S) as plain:
                junk = said.randbytes(said.randrange(1, 2000))
                if number % 2:
                    plain.sendall(junk)
                    continue
                with context.wrap_socket(plain, server_hostname=HOST) as inside:
                    inside.sendall(b"\x10" + junk)


@contextlib.contextmanager
def other_that_goes_on(world: FleetWorld) -> Iterator[None]:
    """Somebody is connected before and after, and what he says arrives."""
    topic = NODE_ECHO.format(node="phone")
    with world.bus("phone") as bus:
        subscribe(bus, topic, qos=1)
        yield
        bus.publish(topic, b"still there", qos=1)
        events = collect(bus, lambda events: bool(deliveries(events)))
        assert not [event for event in events if isinstance(event, Disconnected)]
    with Client.connect(world.members["orchestrator"].broker()) as client:
        client.nodes()


@contextlib.contextmanager
def connection_of(world: FleetWorld, name: str) -> Iterator[ssl.SSLSocket]:
    """A member's connection, past CONNECT, for bytes that no library sends."""
    member = world.members[name]
    texts = (b"raw", member.name.encode(), member.key.encode())
    body = b"\0\4MQTT\4\xc2\0\x3c" + b"".join(len(text).to_bytes(2, "big") + text for text in texts)
    context = client_context(world.fleet.authority)
    with (
        socket.create_connection((HOST, world.fleet.settings.broker_port), DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as inside,
    ):
        inside.sendall(bytes([CONNECT]) + encode_length(len(body)) + body)
        assert inside.recv(4) == b"\x20\x02\0\0"
        yield inside
