"""A phone changes its address, sleeps, is rebooted, is out of the house while its fleet's host moves: it is found.

Nobody does anything for it. Real processes in a network of two, with TLS, keys and roles.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from broker.credential import FILE, Credential
from broker.free_ports import free_ports
from orchestrator.client import Client
from orchestrator.identity.broker_files import write_broker_files
from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings
from orchestrator.model.store import ModelStore
from schemas.messages import NodeView
from tests.support.bus_recorder import until
from tests.support.fleet_world import enrol
from tests.support.nodes import NodeProcess, start_node
from tests.support.phone_network import PhoneNetwork, phone_network
from tests.support.services import running_orchestrator

pytestmark = pytest.mark.long
NAME = "fleet-host.local"
LONG_S = 120.0


class House:
    """A fleet's host, and a phone that joined it when it was at its first address."""

    def __init__(self, folder: Path, network: PhoneNetwork) -> None:
        self.network = network
        self.home, self.phone_home = folder / "host", folder / "phone"
        broker_port, http_port, host_port = free_ports(3)
        network.place_phone(2)
        first = network.place_host(1, NAME)
        settings = FleetSettings(
            addresses=(NAME,), listen=first, broker_port=broker_port, http_port=http_port, host_port=host_port
        )
        fleet = FleetFolder.make(self.home, settings)
        self._store = ModelStore(folder / "store")
        enrol(fleet, "phone", "node").at(first).save(self.phone_home / FILE)

    @contextmanager
    def serving(self) -> Iterator[Client]:
        """The host's broker and orchestrator; an operator of it."""
        (self.home / "models").unlink(missing_ok=True)
        with running_orchestrator(None, self._store, self.home):
            operator = Credential.load(self.home / FILE)
            assert operator
            with Client.connect(operator.broker()) as client:
                yield client

    def move(self, number: int) -> None:
        """The host has another address from now on."""
        listen = self.network.place_host(number, NAME)
        fleet = FleetFolder.update(self.home, replace(FleetFolder.of(self.home).settings, listen=listen))
        with fleet.register() as register:
            write_broker_files(fleet, register)

    def start_phone(self) -> NodeProcess:
        """Begin as a service of the phone does."""
        return start_node("phone", None, self.phone_home, python=str(self.network.python))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with phone_network(tmp_path) as network:
        yield House(tmp_path, network)


@pytest.fixture
def phone(house: House) -> Iterator[NodeProcess]:
    node = house.start_phone()
    yield node
    node.end(signal.SIGKILL)


def seen(client: Client, holds: Callable[[NodeView], bool], what: str, timeout_s: float = LONG_S) -> NodeView:
    """The phone as the orchestrator sees it, once that holds."""
    found: list[NodeView] = []

    def looks_so() -> bool:
        found[:] = [node for node in client.nodes().nodes if node.node == "phone"]
        return bool(found) and holds(found[0])

    until(what, looks_so, timeout_s)
    return found[0]


def is_here(node: NodeView) -> bool:
    return node.state == "online"


def learnt(house: House, address: str) -> bool:
    found = Credential.load(house.phone_home / FILE)
    return found is not None and address in found.addresses


def test_the_host_moves_while_the_phone_is_away(house: House, phone: NodeProcess) -> None:
    """It knew one address when it joined, and has learnt a name since."""
    with house.serving() as client:
        before = seen(client, is_here, "the phone")
        until("the host's name", lambda: learnt(house, NAME), LONG_S)
        house.network.carry_phone(home=False)
    house.move(77)
    with house.serving() as client:  # another process, which the phone has never seen
        house.network.carry_phone(home=True)
        after = seen(client, is_here, "the phone at the host's new address")
        assert after.incarnation == before.incarnation, "its process went on all the time"
        until("the new address", lambda: learnt(house, house.network.host), LONG_S)
        # It is rebooted meanwhile: the service starts it again.
        phone.end(signal.SIGKILL)
        again = house.start_phone()
        try:
            seen(
                client, lambda node: is_here(node) and node.incarnation != before.incarnation, "the phone's next start"
            )
        finally:
            again.end(signal.SIGKILL)


def test_the_phones_address_changes_and_its_connection_dies_without_a_word(house: House, phone: NodeProcess) -> None:
    with house.serving() as client:
        before = seen(client, is_here, "the phone")
        house.network.place_phone(9)
        after = seen(client, lambda node: is_here(node) and bool(node.reconnects), "the phone at its new address")
        assert after.incarnation == before.incarnation


def test_the_phone_sleeps_and_wakes_up(house: House, phone: NodeProcess) -> None:
    with ExitStack() as stack, house.serving() as client:
        before = seen(client, is_here, "the phone")
        phone.process.send_signal(signal.SIGSTOP)
        stack.callback(phone.process.send_signal, signal.SIGCONT)
        seen(client, lambda node: node.state == "offline", "that it sleeps")
        phone.process.send_signal(signal.SIGCONT)
        assert seen(client, is_here, "the phone").incarnation == before.incarnation
