"""Attacks by numbers on a fleet that is served: connections, lengths and bytes that mean nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from broker.credential import FILE, Credential
from broker.errors import BrokerUnreachable
from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from schemas.roles import Role
from tests.support.fleet_world import HOST, FleetWorld
from tests.support.polling import DEADLINE_S
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {"phone": "node", "stranger": "client"}
MOST_CONNECTIONS = 40
"""More take seconds: they are made faster than Mosquitto takes them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("flooded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.identity.broker_files.MOST_CONNECTIONS", MOST_CONNECTIONS)
        with served_fleet(home, ModelStore(home / "models"), ROLES) as served:
            yield served


def test_who_fills_the_broker_locks_neither_orchestrator_nor_operator_out(world: FleetWorld) -> None:
    settings = world.fleet.settings
    own = Credential.load(world.fleet.path.parent / FILE)
    assert own
    with ExitStack() as stack:
        strangers = [
            stack.enter_context(socket.create_connection((HOST, settings.broker_port), DEADLINE_S))
            for _ in range(MOST_CONNECTIONS + 20)
        ]
        for stranger in strangers[MOST_CONNECTIONS:]:
            assert stranger.recv(1) == b""  # the broker has had enough of them
        with MqttBus(world.members["phone"].broker(), client_id="phone") as bus, pytest.raises(BrokerUnreachable):
            bus.connect(DEADLINE_S)
        with Client.connect(own.broker()) as operator:
            assert operator.nodes().nodes == ()
    until_broker_takes(world, "phone")  # it may have taken some of those for alive a moment ago


def until_broker_takes(world: FleetWorld, name: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            with world.bus(name):
                return
        except BrokerUnreachable:
            assert time.monotonic() < end_s
