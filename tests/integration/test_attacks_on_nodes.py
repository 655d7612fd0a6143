"""Attacks on a node that runs: by servers that pose as the fleet's, and by one who may command it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.credential import FILE
from broker.errors import BrokerUnreachable
from broker.mqtt import MqttBus
from orchestrator.identity.authority import make_authority, make_server
from orchestrator.model.store import ModelStore
from schemas.roles import Role
from tests.support.certificates import write_certificate
from tests.support.false_hosts import false_host, tls_of
from tests.support.fleet_world import HOST, FleetWorld
from tests.support.nodes import start_node
from tests.support.polling import DEADLINE_S
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {"phone": "node", "reader": "client"}
CONNACK = b"\x20\x03\0\0\0"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    with served_fleet(tmp_path_factory.mktemp("attacked"), tiny_store, ROLES) as served:
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
