"""``linguabus service``, without a systemd that runs: what it prints is run by hand, and answers."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.free_ports import free_port
from broker.local_broker import LocalBroker
from orchestrator.model.store import ModelStore
from tests.support.bus_recorder import until
from tests.support.fleet_commands import FleetCommands
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.services import running_orchestrator


def exec_start(unit: str) -> list[str]:
    (line,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart="))


@contextmanager
def run_by_hand(unit: str, until: str) -> Iterator[None]:
    """What a unit starts, once it has said a line that begins so."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(exec_start(unit), stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout
        assert any(line.startswith(until) for line in process.stdout)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_what_a_unit_starts_answers(tiny_store: ModelStore, tmp_path: Path) -> None:
    port = free_port()
    commands = FleetCommands()
    with LocalBroker() as broker, running_orchestrator(broker.url, tiny_store, tmp_path / "home"):
        in_front = ("--broker", broker.url, "service", "show", "--user")
        unit = commands.run(tmp_path, *in_front, "api", "--port", str(port))
        assert exec_start(unit)[1:] == [
            "--home", str(tmp_path), "--broker", broker.url, "api", "--port", str(port),
        ]  # fmt: skip
        url = f"http://127.0.0.1:{port}/v1/models"

        def has_model() -> bool:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return bool(json.load(answer)["data"])

        with run_by_hand(unit, "OpenAI's interface"):
            until("the orchestrator's model", has_model)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", "serve", "--min-nodes", "0"), "'--min-nodes': '0' is not a whole number from 1 to 256"),
        (("--user", "node", "--threadz", "2"), "linguabus node: No such option '--threadz'"),
        (("--system", "serve"), "--as USER, in front of serve; for root itself: --as root"),
        (("--user", "ask"), "'ask' is not one of 'serve', 'api', 'node'"),
    ],
)
def test_what_would_not_start_is_refused_now(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    said_there = FleetCommands().run(tmp_path, "service", "show", *arguments, fails=True, SUDO_USER="")
    (line,) = said_there.splitlines()
    assert said in line


def test_a_password_goes_into_no_unit(tmp_path: Path) -> None:
    said = FleetCommands(("--broker", "mqtt://ann:secret@127.0.0.1")).run(
        tmp_path, "service", "show", "--user", "api", fails=True
    )
    assert "write it into the configuration file" in said
    assert "secret" not in said


def test_nothing_is_installed_here(tmp_path: Path) -> None:
    commands = FleetCommands()
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert "was not installed" in commands.run(tmp_path, "service", "remove", "--user", "api", **environment)
    assert list(tmp_path.iterdir()) == []
