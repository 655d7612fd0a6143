"""A fleet's broker for programs in a browser: WebSocket over TLS, keys and roles as on its other ports."""

from __future__ import annotations

import dataclasses
import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from broker.free_ports import free_ports
from broker.tls import client_context
from orchestrator.identity.broker_files import configuration_file, write_broker_files
from orchestrator.identity.fleet_broker import FleetBroker
from orchestrator.identity.fleet_folder import FleetFolder
from schemas.topics import ORCHESTRATOR_STATUS, PLAN
from tests.support.fleet_world import HOST, FleetWorld, enrol, make_fleet
from tests.support.polling import DEADLINE_S

STATUS = ORCHESTRATOR_STATUS.format(pipeline="main")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("fleet")
    made = make_fleet(home)
    (port,) = free_ports(1)
    fleet = FleetFolder.update(home, dataclasses.replace(made.settings, websocket_port=port))
    members = {"page": enrol(fleet, "page", "client")}
    own = fleet.own_credential()
    with FleetBroker(fleet, own):
        yield FleetWorld(fleet, {**members, own.name: own})


@contextmanager
def browser(world: FleetWorld, name: str, key: str) -> Iterator[queue.Queue[Any]]:
    """What a client over WebSocket hears: the answer to its CONNECT, then messages."""
    heard: queue.Queue[Any] = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2, transport="websockets", protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(client_context(world.fleet.authority))
    client.username_pw_set(name, key)

    def greeted(*said: Any) -> None:
        client.subscribe([(STATUS, 1), (PLAN.format(pipeline="main"), 1)] if not said[3].is_failure else STATUS)
        heard.put(str(said[3]))

    client.on_connect = greeted
    client.on_subscribe = lambda *_: heard.put("subscribed")
    client.on_message = lambda _, __, message: heard.put((message.topic, message.payload))
    client.connect(HOST, world.fleet.settings.websocket_port)
    client.loop_start()
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_member_reads_what_its_role_has_and_no_more(world: FleetWorld) -> None:
    with browser(world, "page", world.members["page"].key) as heard, world.bus("orchestrator") as bus:
        assert [heard.get(timeout=DEADLINE_S) for _ in range(2)] == ["Success", "subscribed"]
        bus.publish(PLAN.format(pipeline="main"), b"not for clients", qos=1)
        bus.publish(STATUS, b"here", qos=1)
        assert bus.flush(DEADLINE_S)
        assert heard.get(timeout=DEADLINE_S) == (STATUS, b"here")


def test_nobody_else_gets_in(world: FleetWorld) -> None:
    with browser(world, "page", "wrong") as heard:
        assert heard.get(timeout=DEADLINE_S) == "Not authorized"


def test_it_listens_where_the_fleet_was_told_to_and_not_on_every_address(world: FleetWorld) -> None:
    """Mosquitto 2.0 does, if its configuration has only the address."""
    port = world.fleet.settings.websocket_port
    with socket.create_connection((HOST, port), timeout=DEADLINE_S):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=DEADLINE_S)


def test_without_the_option_there_is_no_such_port(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    with fleet.register() as register:
        write_broker_files(fleet, register)
    assert "websockets" not in configuration_file(fleet).read_text("utf-8")
