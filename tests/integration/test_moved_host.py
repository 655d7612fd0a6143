"""The fleet's host gets another address: members learn it while they reach it, follow it, and can be told by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPMessage
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.bus import Connected, Disconnected
from broker.credential import FILE, MOST_ADDRESSES, Credential
from broker.https import Answer
from broker.mqtt import MqttBus
from broker.whereabouts import Whereabouts
from edge_node.storage.blob_access import BlobAccess
from orchestrator.cli import cli
from orchestrator.commands.settings import Settings
from orchestrator.identity.broker_files import write_broker_files
from orchestrator.identity.fleet_broker import FleetBroker
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.store import ModelStore
from schemas.roles import Role
from tests.support.fleet_world import HOST, FleetWorld, enrol, fleet_world, make_fleet
from tests.support.polling import collect
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {"phone": "node", "laptop": "client"}
NOWHERE = "127.0.0.3"
"""Nobody listens there."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("moved")
    with served_fleet(home, ModelStore(home / "models"), ROLES) as served:
        yield served


def kept(credential: Credential, path: Path) -> Whereabouts:
    credential.save(path)
    return Whereabouts(path, credential)


def addresses(path: Path) -> tuple[str, ...]:
    found = Credential.load(path)
    assert found
    return found.addresses


def test_a_member_learns_where_the_host_is_found(world: FleetWorld, tmp_path: Path) -> None:
    path = tmp_path / FILE
    phone = world.members["phone"].at(NOWHERE, "localhost")
    whereabouts = kept(phone, path)
    assert whereabouts.learn()
    # What answered is first; then what the host says; what is known besides stays.
    assert addresses(path) == ("localhost", HOST, NOWHERE)
    assert tuple(whereabouts) == addresses(path)
    assert (whereabouts.broker().host, whereabouts.broker().other_hosts) == ("localhost", (HOST, NOWHERE))
    assert BlobAccess.by(phone.broker(), whereabouts).check(f"https://{HOST}:8765/v1/blobs/x")
    before = path.stat().st_ino
    assert whereabouts.learn()
    assert path.stat().st_ino == before, "nothing was new, and nothing was written"


def test_a_command_asks_once_a_day(world: FleetWorld, tmp_path: Path) -> None:
    path, laptop = tmp_path / FILE, world.members["laptop"].at("localhost")
    assert kept(laptop, path).learn_daily() is None
    os.utime(path, (0, 0))
    asks = Whereabouts(path, laptop).learn_daily()
    assert asks
    asks.join()
    assert addresses(path) == ("localhost", HOST)
    os.utime(path, (0, 0))
    again = Whereabouts(path, laptop.at(*addresses(path))).learn_daily()
    assert again
    again.join()
    assert Whereabouts(path, laptop.at(*addresses(path))).learn_daily() is None, "nothing was new, and it was asked"


def test_nobody_else_tells_a_member_where_to_go(world: FleetWorld, tmp_path: Path) -> None:
    path = tmp_path / FILE
    phone = world.members["phone"]
    for wrong in (phone.at(NOWHERE), replace(phone, key="x" * 43)):
        assert not kept(wrong, path).learn()
        assert addresses(path) == wrong.addresses
    foreign = replace(phone, authority=make_fleet(tmp_path / "another").authority)
    assert not kept(foreign, path).learn()


def test_what_a_host_says_is_looked_at(world: FleetWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, phone = tmp_path / FILE, world.members["phone"]
    for said in (b"", b"[]", b'{"addresses": []}', b'{"addresses": ["a b"]}', b'{"addresses": [1]}', b"[" * 60_000):
        monkeypatch.setattr("broker.whereabouts.ask", lambda *_, said=said, **__: Answer(200, said, HTTPMessage()))
        assert not kept(phone, path).learn()
        assert addresses(path) == phone.addresses
    many = b'{"addresses": [%s]}' % b",".join(b'"10.0.0.%d"' % number for number in range(200))
    monkeypatch.setattr("broker.whereabouts.ask", lambda *_, **__: Answer(200, many, HTTPMessage()))
    assert kept(phone, path).learn()
    assert (addresses(path)[:2], len(addresses(path))) == ((HOST, "10.0.0.0"), MOST_ADDRESSES)


def test_another_membership_in_the_file_is_somebody_elses(world: FleetWorld, tmp_path: Path) -> None:
    path = tmp_path / FILE
    whereabouts = kept(world.members["phone"], path)
    world.members["laptop"].at(NOWHERE).save(path)
    assert whereabouts.broker() == world.members["phone"].broker()
    path.write_text("{")
    assert whereabouts.broker() == world.members["phone"].broker()


def test_a_connection_that_is_lost_is_made_again_where_the_host_is_by_then(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with fleet_world(tmp_path / "fleet", ROLES) as first:
        credential = first.members["phone"]
        whereabouts = kept(credential, path)
        bus = MqttBus(credential.broker(), client_id="phone-test", find=whereabouts.broker)
        bus.connect()
    with bus:
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
        # The same fleet on another address.
        FleetFolder.update(tmp_path / "fleet", replace(first.fleet.settings, listen="127.0.0.2"))
        fleet = FleetFolder.of(tmp_path / "fleet")
        with fleet.register() as register:
            write_broker_files(fleet, register)
        with FleetBroker(fleet, fleet.own_credential()):
            credential.at("127.0.0.2").save(path)
            collect(bus, lambda events: any(isinstance(event, Connected) for event in events))


def join(home: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--home", str(home), "join", *arguments], obj=Settings())
    return result.exit_code, f"{result.output}{result.exception or ''}"


def test_a_member_is_told_by_hand(world: FleetWorld, tmp_path: Path) -> None:
    node, client = tmp_path / "node" / FILE, tmp_path / FILE
    world.members["phone"].at(NOWHERE).save(node)
    world.members["laptop"].at(NOWHERE).save(client)
    code, said = join(tmp_path, "--address", "localhost")
    assert (code, said.count("finds the fleet at localhost")) == (0, 2)
    assert addresses(node) == addresses(client) == ("localhost", NOWHERE)
    assert Credential.load(node) == world.members["phone"].at("localhost", NOWHERE)


def test_a_wrong_word_changes_nothing(world: FleetWorld, tmp_path: Path) -> None:
    path = tmp_path / FILE
    world.members["laptop"].save(path)
    before = path.read_bytes()
    assert "refused" in join(tmp_path, "--address", NOWHERE)[1]
    assert "no host's name" in join(tmp_path, "--address", "a b")[1]
    assert "--address HOST" in join(tmp_path)[1]
    assert "--address HOST" in join(tmp_path, "linguabus://x", "--address", HOST)[1]
    assert "init --update" in join(world.fleet.path.parent, "--address", HOST)[1]
    assert "invitation" in join(tmp_path / "none", "--address", HOST)[1]
    other = enrol(world.fleet, "somebody", "client")
    replace(other, key="x" * 43).save(path)
    assert "ot authorized" in join(tmp_path, "--address", "localhost")[1]
    assert addresses(path) == (HOST,)
    path.write_bytes(before)
    with fleet_world(tmp_path / "another", ROLES) as another:
        replace(world.members["laptop"], broker_port=another.fleet.settings.broker_port).save(path)
        before = path.read_bytes()
        assert "not believed" in join(tmp_path, "--address", "localhost")[1]
    assert path.read_bytes() == before
