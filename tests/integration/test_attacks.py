"""Attacks on a fleet that is served: by strangers, by members who want more than their role, by false servers."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.bus import Disconnected
from broker.credential import FILE, Credential
from broker.errors import BrokerRefused, BrokerUnreachable, JoiningFailed
from broker.joining import join
from broker.member_key import hash_of, new_key
from broker.mqtt import MqttBus
from broker.tls import client_context, fingerprint
from orchestrator.cli import cli as app
from orchestrator.commands.settings import Settings
from orchestrator.identity.authority import make_authority, make_server
from orchestrator.model.store import ModelStore
from schemas.invitation import TOKEN_BYTES, Invitation
from schemas.roles import Role
from tests.support.bus_recorder import until
from tests.support.false_hosts import false_host, tls_of
from tests.support.fleet_commands import FleetCommands
from tests.support.fleet_world import HOST, FleetWorld
from tests.support.polling import DEADLINE_S, collect
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {
    "phone": "node",
    "thief": "node",
    "gone": "node",
    "reader": "client",
    "stranger": "client",
    "owner": "operator",
}
BLOB = f"/v1/blobs/{'0' * 64}"
"""Members hear that there is no such."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("attacked")
    with served_fleet(home, ModelStore(home / "models"), ROLES) as served:
        yield served


def broker_log(world: FleetWorld) -> str:
    text = (world.fleet.broker_folder / "broker.log").read_text()
    assert not any(member.key in text for member in world.members.values())
    return text


def cli(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LINGUABUS")}
    command = [sys.executable, "-m", "orchestrator.cli", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=kept | environment, timeout=60)


def invite(world: FleetWorld, name: str, *, expires_s: float = 60.0, again: bool = False) -> Invitation:
    fleet = world.fleet
    token = secrets.token_bytes(TOKEN_BYTES)
    with fleet.register() as register:
        register.invite(name, "client", token, expires_s, again=again)
    return Invitation(
        name=name, role="client", addresses=(HOST,), port=fleet.settings.http_port,
        fingerprint=fingerprint(fleet.authority), token=token,
    )  # fmt: skip


def asked(
    world: FleetWorld, method: str, path: str, body: bytes | None = None, source: str = HOST, **headers: str
) -> HTTPResponse:
    context = client_context(world.fleet.authority)
    port = world.fleet.settings.http_port
    connection = HTTPSConnection(HOST, port, timeout=10, context=context, source_address=(source, 0))
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse()
    finally:
        connection.close()


def ask(world: FleetWorld, method: str, path: str, body: bytes, source: str) -> int:
    return asked(world, method, path, body, source).status


# --- connecting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [(None, None), ("reader", "wrong"), ("phone", "readers"), ("nobody", "wrong"), ("", "")]
)
def test_who_has_no_key_of_that_name_is_refused(world: FleetWorld, given: tuple[str | None, str | None]) -> None:
    name, key = given
    reader = world.members["reader"]
    address = replace(reader.broker(), username=name, password=reader.key if key == "readers" else key)
    before = len(broker_log(world))
    with MqttBus(address, client_id="intruder") as bus, pytest.raises(BrokerRefused) as refused:
        bus.connect(DEADLINE_S)
    assert reader.key not in str(refused.value)
    end_s = time.monotonic() + DEADLINE_S
    while "not authorised" not in broker_log(world)[before:]:  # Mosquitto answers before it writes
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, str]:
    """A server's certificate of another authority, and that authority."""
    key, authority = make_authority()
    (tmp_path / "false.pem").write_text("".join(make_server(key, authority, [HOST])))
    return tmp_path / "false.pem", authority


def http_answer(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def test_an_expired_server_is_not_believed(world: FleetWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.identity.authority.SERVER_DAYS", -0.5)
    key = (world.fleet.path / "authority.key").read_text()
    (tmp_path / "old.pem").write_text("".join(make_server(key, world.fleet.authority, [HOST])))
    with false_host(tls_of(tmp_path / "old.pem"), http_answer(world.fleet.authority)) as host:
        address = replace(world.members["phone"].broker(), port=host.port)
        with MqttBus(address, client_id="n") as bus, pytest.raises(BrokerUnreachable, match="expired"):
            bus.connect(10)
        invitation = replace(invite(world, "late"), port=host.port)
        with pytest.raises(JoiningFailed, match="expired"):
            join(invitation, tmp_path / "c.json")
        assert b"token" not in host.all


@pytest.mark.parametrize("gives_real_authority", [True, False])
def test_a_false_host_does_not_get_the_token(
    world: FleetWorld, foreign: tuple[Path, str], tmp_path: Path, gives_real_authority: bool
) -> None:
    authority = world.fleet.authority if gives_real_authority else foreign[1]
    with false_host(tls_of(foreign[0]), http_answer(authority)) as host:
        invitation = replace(invite(world, "lured"), port=host.port)
        with pytest.raises(JoiningFailed) as failed:
            join(invitation, tmp_path / "c.json")
    told = host.all
    assert b"GET /v1/authority" in told
    assert b"POST" not in told
    assert base64.b64encode(invitation.token) not in told
    assert str(invitation) not in str(failed.value)
    assert not (tmp_path / "c.json").exists()


def test_what_a_false_host_says_does_not_reach_the_terminal(
    world: FleetWorld, foreign: tuple[Path, str], tmp_path: Path
) -> None:
    rude = b"\x1b]0;owned\x07 no http\r\n\r\n"
    with false_host(tls_of(foreign[0]), rude) as host, pytest.raises(JoiningFailed) as failed:
        join(replace(invite(world, "shown"), port=host.port), tmp_path / "c.json")
    assert str(failed.value).isprintable()


def test_plain_mqtt_at_the_tls_port_is_a_clear_error(world: FleetWorld, tmp_path: Path) -> None:
    done = cli(tmp_path, "nodes", "--broker", f"mqtt://{HOST}:{world.fleet.settings.broker_port}")
    assert done.returncode == 2
    assert "without TLS" in done.stderr, done.stderr


def test_old_tls_and_plain_http_are_not_spoken(world: FleetWorld) -> None:
    for port in (world.fleet.settings.broker_port, world.fleet.settings.http_port):
        old = client_context(world.fleet.authority)
        with pytest.warns(DeprecationWarning, match="TLS"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection((HOST, port), 5) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(sock, server_hostname=HOST)
    with socket.create_connection((HOST, world.fleet.settings.http_port), 5) as sock:
        sock.sendall(b"GET /v1/authority HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in sock.recv(100)


# --- invitations ------------------------------------------------------------------------------------------------


def enrolling(token: bytes, key_hash: str = "") -> bytes:
    return json.dumps({"token": base64.b64encode(token).decode(), "key_hash": key_hash or hash_of(new_key())}).encode()


def test_an_invitation_is_good_once_and_not_for_ever(
    world: FleetWorld, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    used = invite(world, "once")
    assert join(used, tmp_path / "c.json").name == "once"
    over = invite(world, "never", expires_s=-1)
    for token in (used.token, over.token):
        assert ask(world, "POST", "/v1/enrol", enrolling(token), "127.0.0.2") == 403
    assert caplog.text.count("an invitation that is not good") == 2
    assert base64.b64encode(used.token).decode() not in caplog.text


def test_an_invitation_makes_nobody_else_a_member(world: FleetWorld, tmp_path: Path) -> None:
    invitation = replace(invite(world, "small"), name="owner", role="operator")
    with pytest.raises(JoiningFailed, match="somebody else"):
        join(invitation, tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()
    assert world.fleet.register().admits("owner", world.members["owner"].key)


def test_guesses_are_slowed_down_and_others_can_join(world: FleetWorld, tmp_path: Path) -> None:
    statuses = [
        ask(world, "POST", "/v1/enrol", enrolling(secrets.token_bytes(TOKEN_BYTES)), "127.0.0.9") for _ in range(25)
    ]
    assert statuses == [403] * 20 + [429] * 5
    assert 0 < int(asked(world, "POST", "/v1/enrol", b"", "127.0.0.9").headers["retry-after"]) <= 60
    assert join(invite(world, "meanwhile"), tmp_path / "c.json").name == "meanwhile"


def test_a_shut_door_answers_as_to_a_wrong_token_until_it_is_opened_again(
    world: FleetWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = world.fleet.path.parent
    invitation = invite(world, "late-comer")
    said = cli(home, "permit-join", "off")
    assert said.stdout.startswith("door: closed; 'linguabus permit-join 15m' opens it\n"), said.stderr
    with pytest.raises(JoiningFailed) as shut:
        join(invitation, tmp_path / "c.json")
    with pytest.raises(JoiningFailed) as unknown:
        join(replace(invitation, token=bytes(TOKEN_BYTES)), tmp_path / "c.json")
    assert str(shut.value) == str(unknown.value)
    assert "late-comer at 127.0.0.1 has an invitation, and the door is closed" in caplog.text
    waiting = json.loads(cli(home, "members", "--json").stdout)
    assert waiting["door"] == {"open": False, "open_until": None}
    assert [one["waits"] for one in waiting["invited"] if one["name"] == "late-comer"] == [True]
    rows = [line.split() for line in cli(home, "members").stdout.splitlines()]
    assert ["late-comer", "client", "waits"] in [row[:3] for row in rows]
    opened = json.loads(cli(home, "permit-join", "1m", "--json").stdout)
    assert opened["door"]["open"]
    assert join(invitation, tmp_path / "c.json").name == "late-comer"


# --- revoking ---------------------------------------------------------------------------------------------------


def test_a_revoked_session_ends_and_nobody_else_notices(world: FleetWorld, tmp_path: Path) -> None:
    leaver = join(invite(world, "leaver"), tmp_path / "c.json")
    with MqttBus(leaver.broker(), client_id="leaver") as bus, world.bus("reader", "stays") as stays:
        bus.connect(DEADLINE_S)
        begin_s = time.monotonic()
        with world.fleet.register() as register:
            register.revoke("leaver")
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events), 2.0)
        assert time.monotonic() - begin_s < 2.0
        assert not [event for event in stays.poll(0.3) if isinstance(event, Disconnected)]
        with MqttBus(leaver.broker(), client_id="back") as back, pytest.raises(BrokerRefused):
            back.connect(DEADLINE_S)
    assert blob_status(world, leaver) == 401


def joins(home: Path, invitation: Invitation) -> str:
    result = CliRunner().invoke(app, ["--home", str(home), "join", str(invitation)], obj=Settings())
    assert result.exit_code == 0, result.output
    return result.output


def revoke(world: FleetWorld, member: Credential) -> None:
    """Return once the broker knows it."""
    with MqttBus(member.broker(), client_id="seen-off") as bus:
        bus.connect(DEADLINE_S)
        with world.fleet.register() as register:
            register.revoke(member.name)
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))


def test_who_was_revoked_joins_again_by_a_new_invitation(world: FleetWorld, tmp_path: Path) -> None:
    assert "joined as comes-back, a client" in joins(tmp_path, invite(world, "comes-back"))
    first = Credential.load(tmp_path / FILE)
    assert first
    revoke(world, first)
    again = invite(world, "comes-back")
    assert "joined as comes-back, a client" in joins(tmp_path, again)
    second = Credential.load(tmp_path / FILE)
    assert second
    assert second.key != first.key
    with MqttBus(second.broker(), client_id="comes-back") as bus:
        bus.connect(DEADLINE_S)
    assert "already" in joins(tmp_path, again)
    # Where nobody answers, nobody can tell.
    second.at("127.0.0.3").save(tmp_path / FILE)
    assert "can't be found out" in joins(tmp_path, replace(again, addresses=("127.0.0.3",)))
    assert Credential.load(tmp_path / FILE) == second.at("127.0.0.3")


def test_the_log_has_a_line_for_each_change_of_members(
    world: FleetWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    join(invite(world, "logged"), tmp_path / "first.json")
    again = join(invite(world, "logged", again=True), tmp_path / "again.json")
    revoke(world, again)
    until("a line", lambda: "logged is no member" in caplog.text)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line for line in said if line.startswith("logged ")] == [
        "logged has joined as a client",
        "logged has joined again, with another key, as a client",
        "logged is no member any more",
    ]


def test_a_node_that_was_revoked_says_so_and_ends(world: FleetWorld, tmp_path: Path) -> None:
    gone = world.members["gone"]
    gone.save(tmp_path / "node" / FILE)
    with FleetCommands().running(tmp_path, "node", until="node gone: registered") as node:
        revoke(world, gone)
        assert node.process.wait(DEADLINE_S) == 2
        node.wait_for(f"Error: broker {gone.broker()} refused the connection: Not authorized; gone is no member any")


def test_a_connection_that_is_kept_open_is_asked_for_its_key_each_time(world: FleetWorld, tmp_path: Path) -> None:
    leaver = join(invite(world, "keeps-open"), tmp_path / "c.json")
    context = client_context(world.fleet.authority)
    port = world.fleet.settings.http_port
    with contextlib.closing(
        HTTPSConnection(HOST, port, timeout=10, context=context, source_address=("127.0.0.4", 0))
    ) as kept:
        assert kept_status(kept, leaver) == 404
        before = kept.sock
        with world.fleet.register() as register:
            register.revoke("keeps-open")
        assert kept_status(kept, leaver) == 401
        assert kept.sock is before


def test_a_key_that_was_replaced_is_good_for_nothing_at_once(world: FleetWorld, tmp_path: Path) -> None:
    lost = join(invite(world, "lost-it"), tmp_path / "lost.json")
    with MqttBus(lost.broker(), client_id="lost-it") as bus:
        bus.connect(DEADLINE_S)
        found = join(invite(world, "lost-it", again=True), tmp_path / "found.json")
        assert found.key != lost.key
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events), 2.0)
    with MqttBus(lost.broker(), client_id="back") as back, pytest.raises(BrokerRefused):
        back.connect(DEADLINE_S)
    assert blob_status(world, lost) == 401
    assert blob_status(world, found) == 404
    with MqttBus(found.broker(), client_id="found") as bus:
        bus.connect(DEADLINE_S)


# --- the blob server --------------------------------------------------------------------------------------------


def authorization(credential: Credential) -> dict[str, str]:
    pair = base64.b64encode(f"{credential.name}:{credential.key}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def blob_status(world: FleetWorld, credential: Credential | None) -> int:
    headers = authorization(credential) if credential else {}
    return asked(world, "GET", BLOB, None, "127.0.0.3", **headers).status


def kept_status(connection: HTTPSConnection, credential: Credential) -> int:
    """As `blob_status`, over a connection that stays open."""
    connection.request("GET", BLOB, headers=authorization(credential))
    with connection.getresponse() as response:
        response.read()
        return response.status


def test_models_are_for_members(world: FleetWorld) -> None:
    assert blob_status(world, None) == 401
    assert blob_status(world, replace(world.members["phone"], key="wrong")) == 401
    assert blob_status(world, replace(world.members["phone"], name="thief")) == 401
    assert blob_status(world, world.members["phone"]) == 404
