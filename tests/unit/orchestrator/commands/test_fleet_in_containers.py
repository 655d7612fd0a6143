"""A fleet whose broker and orchestrator are containers: where they find each other, and what devices are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.credential import FILE, Credential
from orchestrator.cli import cli
from orchestrator.commands.settings import Settings
from orchestrator.identity import broker_files
from orchestrator.identity.errors import OwnMember
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.membership import Membership
from schemas.invitation import Invitation

FOUND = ("172.18.0.3",)
"""What a container finds of addresses of its own."""


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--home", str(home), *arguments], obj=Settings())


def init(home: Path, *arguments: str) -> Result:
    return run(home, "init", "--update", "--inside", "fleet", "--broker-files", str(home / "read"), *arguments)


def invited(home: Path, *arguments: str) -> Invitation:
    result = run(home, "invite", "phone", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return Invitation.parse(json.loads(result.stdout)["invitation"])


def own(home: Path) -> Credential:
    found = Credential.load(home / FILE)
    assert found
    return found


def test_a_second_init_keeps_members_and_authority(tmp_path: Path) -> None:
    assert init(tmp_path).exit_code == 0
    before, authority, key = (
        FleetFolder.of(tmp_path).own_credential(),
        FleetFolder.of(tmp_path).authority,
        own(tmp_path),
    )
    passwords = (tmp_path / "read" / "passwords").read_text()

    assert init(tmp_path, "--broker-port", "9000", "--host-port", "9001", "--address", "192.0.2.5").exit_code == 0

    fleet = FleetFolder.of(tmp_path)
    assert fleet.authority == authority
    assert (fleet.own_credential().key, fleet.own_credential().broker_port) == (before.key, 9001)
    assert (own(tmp_path).key, own(tmp_path).broker_port) == (key.key, 9001)
    assert (tmp_path / "read" / "passwords").read_text() == passwords
    configuration = (tmp_path / "read" / "mosquitto.conf").read_text()
    assert "listener 9000\n" in configuration
    assert "listener 9001\n" in configuration  # of all addresses: the orchestrator is another container


def test_one_port_is_not_for_two_things(tmp_path: Path) -> None:
    refused = init(tmp_path, "--http-port", "8884")
    assert refused.exit_code == 2
    assert "different ports" in refused.stderr
    assert init(tmp_path, "--websocket-port", "8883").exit_code == 2
    assert init(tmp_path, "--websocket-port", "0").exit_code == 0


def test_without_update_a_fleet_is_never_overwritten(tmp_path: Path) -> None:
    assert run(tmp_path, "init").exit_code == 0
    assert run(tmp_path, "init").exit_code != 0


def test_a_device_is_told_the_hosts_address_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGUABUS_ADDRESS", "192.0.2.5")
    assert init(tmp_path).exit_code == 0
    assert own(tmp_path).addresses == ("fleet",)
    assert invited(tmp_path).addresses == ("192.0.2.5",)
    assert invited(tmp_path, "--inside").addresses == ("fleet",)
    assert FleetFolder.of(tmp_path).addresses(FOUND) == ("192.0.2.5",)


def test_without_an_address_only_containers_are_invited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGUABUS_ADDRESS", "")
    assert init(tmp_path).exit_code == 0
    refused = run(tmp_path, "invite", "phone")
    assert refused.exit_code != 0
    assert "LINGUABUS_ADDRESS" in refused.output
    assert invited(tmp_path, "--inside").addresses == ("fleet",)


def test_model_parts_are_offered_under_both_names(tmp_path: Path) -> None:
    assert init(tmp_path, "--address", "192.0.2.5").exit_code == 0
    with Membership(FleetFolder.of(tmp_path), lambda: FOUND) as membership:
        assert membership.urls(8765) == ("https://fleet:8765", "https://192.0.2.5:8765")


def test_a_broker_that_looks_itself_gets_no_signal_and_keeps_no_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(broker_files.time, "sleep", waited.append)
    assert init(tmp_path).exit_code == 0
    assert "pid_file" not in (tmp_path / "read" / "mosquitto.conf").read_text()
    assert broker_files.tell_broker(FleetFolder.of(tmp_path))
    assert waited


@pytest.mark.parametrize("text", ["{}\n", "linguabus join {}\n"])
def test_an_invitation_may_be_in_a_file(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert init(tmp_path, "--address", "192.0.2.5").exit_code == 0
    line = str(invited(tmp_path, "--client"))
    (tmp_path / "line").write_text(text.format(line))
    joined: list[Invitation] = []

    def join(invitation: Invitation, path: Path) -> Credential:
        joined.append(invitation)
        return own(tmp_path)

    monkeypatch.setattr("broker.joining.join", join)
    monkeypatch.setattr("orchestrator.commands.join.await_broker", lambda _: None)
    result = run(tmp_path / "device", "join", f"@{tmp_path / 'line'}")
    assert result.exit_code == 0, result.output
    assert [str(one) for one in joined] == [line]


@pytest.mark.parametrize("host", ["a\x1b[31m", "a b", "host:8883", "-x", "[::1]", "h\u00f6st", "::1%\x1b", "x" * 300])
def test_what_is_no_host_is_not_told_to_devices(tmp_path: Path, host: str) -> None:
    result = run(tmp_path, "init", f"--address={host}")
    assert (result.exit_code, "no host's name or address" in result.output) == (2, True), result.output
    assert "\x1b" not in result.output
    assert not (tmp_path / "fleet").exists()


def test_hosts_are_names_and_addresses(tmp_path: Path) -> None:
    hosts = ("192.0.2.5", "2001:db8::1", "fe80::1%eth0", "living-room.local", "my_host")
    assert run(tmp_path, "init", *(f"--address={host}" for host in hosts)).exit_code == 0
    assert FleetFolder.of(tmp_path).settings.addresses == hosts


@pytest.mark.parametrize(
    ("address", "said"), [("192.0.2.1", "no address of this machine"), ("nohost.invalid", "no host is known")]
)
def test_a_fleet_listens_where_this_machine_is(tmp_path: Path, address: str, said: str) -> None:
    result = run(tmp_path, "init", "--listen", address)
    assert (result.exit_code, said in result.output) == (2, True), result.output
    assert not (tmp_path / "fleet").exists()
    for own in ("127.0.0.1", "0.0.0.0", ""):
        assert run(tmp_path, "init", "--update", "--listen", own).exit_code == 0


def test_the_operator_of_the_host_stays(tmp_path: Path) -> None:
    assert init(tmp_path).exit_code == 0
    result = run(tmp_path, "revoke", own(tmp_path).name)
    assert isinstance(result.exception, OwnMember)
    assert "this host's own operator" in str(result.exception)
    with FleetFolder.of(tmp_path).register() as register:
        assert own(tmp_path).name in {member.name for member in register.members()}


def test_the_door_says_what_to_write(tmp_path: Path) -> None:
    assert init(tmp_path).exit_code == 0
    result = run(tmp_path, "permit-join", "on")
    assert result.exit_code == 2
    assert "write a time such as 30s, 15m, 2h or 1d, 30d at most, or off" in result.output


def test_a_member_has_one_role(tmp_path: Path) -> None:
    assert init(tmp_path, "--address", "192.0.2.5").exit_code == 0
    for roles in (("--client", "--operator"), ("--node", "--client")):
        result = run(tmp_path, "invite", "phone", *roles)
        assert (result.exit_code, "one role" in result.output) == (2, True), result.output
    assert [invited(tmp_path, option).role for option in ("--client", "--operator", "--node")] == [
        "client", "operator", "node",
    ]  # fmt: skip
    assert invited(tmp_path).role == "node"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run(tmp_path, "join", f"@{tmp_path / 'nothing'}")
    assert result.exit_code == 2
    assert "nothing can't be read" in result.output
