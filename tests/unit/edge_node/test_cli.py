"""The node's command line: mistakes are one line and exit code 2."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from broker.credential import FILE, Credential
from broker.errors import BrokerRefused
from broker.mqtt import MqttBus
from edge_node.cli import node
from edge_node.config import read_speed
from edge_node.errors import HomeInUse
from edge_node.service import NodeService
from edge_node.storage.home_lock import only_node
from orchestrator.identity.authority import make_authority
from tests.support.bus_recorder import until
from tests.support.members import as_orchestrator
from tests.support.nodes import start_node
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.secured_broker import SecuredBroker


def run(*arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines on stderr; nothing may appear on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "edge_node", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--name", "a/b"), "letters, digits"),
        (("--name", "x" * 65), "64 at most"),
        (("--threads", "0"), "--threads"),
        (("--emulate-speed", "2"), "--emulate-speed"),
        (("--emulate-speed", "@/nowhere/speed"), "/nowhere/speed can't be read"),
        (("--memory-limit-mb", "5"), "--memory-limit-mb"),
        (("--watchdog-s", "fast"), "--watchdog-s"),
        (("--drain-timeout", "-1"), "--drain-timeout"),
        (("--broker", "http://127.0.0.1"), "mqtt://"),
        (("--broker", "mqtt://192.0.2.1"), "join its fleet"),
        (("--home", "/etc/hosts"), "--home"),
        (("--home", "/dev/null"), "/dev/null can't be used"),
        (("--home", "/dev/null/node"), "/dev/null/node can't be used: Not a directory"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], words: str) -> None:
    code, lines = run(*arguments)
    assert code == 2
    assert words in lines[-1]
    assert lines[-1].startswith("Error: ")


def test_who_has_joined_as_a_client_lends_nothing(tmp_path: Path) -> None:
    _, authority = make_authority()
    client = Credential(
        name="laptop", role="operator", key="k", authority=authority, addresses=("127.0.0.1",), http_port=8765
    )
    client.save(tmp_path / FILE)
    code, lines = run(LINGUABUS_HOME=str(tmp_path))
    assert code == 2
    assert lines[-1].startswith("Error: this device has joined as laptop, an operator, and lends nothing as that: ")


def test_who_has_joined_no_fleet_is_told_how(tmp_path: Path) -> None:
    """Here with another default address, where nobody is: this machine may have a broker."""
    script = "from edge_node import cli; cli.DEFAULT_URL = 'mqtt://127.0.0.1:9'; cli.main()"
    command = [sys.executable, "-c", script, "--home", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "Error: this device has joined no fleet, and no broker of its own lets it in (mqtt://127.0.0.1:9: "
    )
    assert "join the fleet by the line that 'linguabus invite NAME' prints on its host" in last


def test_who_has_no_key_for_a_fleets_broker_is_told_how_to_join(mosquitto: SecuredBroker) -> None:
    ours = as_orchestrator(mosquitto.url)
    stranger = replace(ours, username=None, password=None)
    said = "this device is no member there: join the fleet by the line that"
    with MqttBus(stranger, client_id="stranger") as bus, pytest.raises(BrokerRefused, match=said):
        bus.connect()


def test_a_home_has_one_node(tmp_path: Path, mosquitto: SecuredBroker) -> None:
    first = start_node("first", mosquitto.url, tmp_path)
    try:
        until("it has registered", lambda: "registered" in first.log())
        code, lines = run("--home", str(tmp_path))
        assert (code, len(lines)) == (2, 1)
        assert lines[0].startswith(f"Error: a node runs on {tmp_path} already (process {first.process.pid}): ")
    finally:
        first.process.kill()
        first.process.wait()
    # Nothing is left of who was killed.
    with only_node(tmp_path), pytest.raises(HomeInUse, match=str(os.getpid())), only_node(tmp_path):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_no_broker_is_one_line(tmp_path: Path, host: str) -> None:
    code, lines = run("--broker", f"mqtt://{host}:9", "--name", "alone", "--home", str(tmp_path))
    assert code == 2
    assert lines[0].startswith(f"node alone at mqtt://{host}:9")
    assert lines[1].startswith("Error: ")
    assert f"{host}:9" in lines[1]
    assert len(lines) == 2


def test_who_has_no_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("LINGUABUS_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(click.UsageError, match="give --home DIR"):
        node.main(["--broker", "mqtt://127.0.0.1:9"], standalone_mode=False)


def test_collections_of_garbage_pass_over_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before the node serves would make each full collection a gap in answers."""
    looked_at: list[int] = []
    monkeypatch.setattr(NodeService, "run", lambda *_: looked_at.append(len(gc.get_objects())))
    before = len(gc.get_objects())
    try:
        node.main(["--broker", "mqtt://127.0.0.1:9", "--home", str(tmp_path)], standalone_mode=False)
    finally:
        gc.unfreeze()
    assert looked_at[0] < before / 10


def test_the_emulated_speed_is_read_again_and_kept_while_the_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "speed"
    file.write_text("0.3\n")
    assert read_speed(file) == 0.3
    for nonsense in ("", "fast", "7", "nan"):
        file.write_text(nonsense)
        assert read_speed(file, before=0.3) == 0.3
    assert read_speed(tmp_path / "absent", before=0.5) == 0.5
