"""A machine with systemd on which all is a service: it starts anew, and the fleet is back and answers.

The machine is a Debian in a folder whose first process is systemd; network, Python and repository are this machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.free_ports import free_ports
from orchestrator.model.store import ModelStore
from tests.support.booted_system import PACKAGES, BootedSystem, booted
from tests.support.debian_system import debian_system, fresh_copy
from tests.support.fleet_world import HOST
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.tiny_store import TINY

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),  # of which debootstrap takes most, the first time
    pytest.mark.skipif(
        sys.platform != "linux"
        or os.geteuid() != 0
        or not all(map(shutil.which, ("debootstrap", "unshare", "nsenter"))),
        reason="a machine in a folder is made by root, on Debian or Ubuntu, with debootstrap",
    ),
]

HOME = "/srv/linguabus"
LINGUABUS = (sys.executable, "-m", "orchestrator.cli", "--home", HOME)
PYTHON = {"PYTHONPATH": str(ROOT)}
UNITS = ("serve", "api", "node")


@pytest.fixture
def root(tmp_path: Path, tiny_store: ModelStore) -> Iterator[Path]:
    """The machine's files: with a model, and where its programs are to find linguabus."""
    with ExitStack() as stack:
        release = next(
            line.partition("=")[2].strip('"')
            for line in Path("/etc/os-release").read_text().splitlines()
            if line.startswith("VERSION_CODENAME=")
        )
        copy = stack.enter_context(fresh_copy(debian_system(release, PACKAGES), tmp_path))
        (copy / "etc/systemd/system/multi-user.target.wants/mosquitto.service").unlink()  # Debian's, for all who ask
        home = copy / HOME.lstrip("/")
        home.mkdir(parents=True)
        shutil.copytree(tiny_store.home, home / "models")
        for unit in UNITS:
            (home / f"{unit}.env").write_text("".join(f"{name}={value}\n" for name, value in PYTHON.items()))
        yield copy


@pytest.fixture
def start(root: Path) -> Iterator[Callable[[], BootedSystem]]:
    """Starts the machine."""
    with ExitStack() as stack:
        folders = [Path(sys.base_prefix), Path(sys.prefix).resolve(), ROOT]
        yield lambda: stack.enter_context(booted(root, folders))


def linguabus(system: BootedSystem, *arguments: str, check: bool = True) -> str:
    return system.run(*LINGUABUS, *arguments, environment=PYTHON, check=check)


def is_asked(system: BootedSystem, port: int) -> bool:
    """Is a question answered, on the machine itself and by HTTP?"""
    question = {"model": "default", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    asked = urllib.request.Request(
        f"http://{HOST}:{port}/v1/chat/completions", json.dumps(question).encode(), {"content-type": "application/json"}
    )
    if not linguabus(system, "ask", "Hello", "--max-tokens", "4", check=False).strip():
        return False
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
            return bool(json.load(answer)["usage"]["completion_tokens"])
    except OSError:  # nobody listens yet, or there is no fleet yet behind who does
        return False


def until(system: BootedSystem, condition: Callable[[], bool]) -> None:
    """Wait for what only asking tells: a unit runs before its program listens."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, system.run("journalctl", "--no-pager", "-n", "80", check=False)
        time.sleep(0.2)


def are_active(system: BootedSystem) -> bool:
    said = linguabus(system, "service", "status", "--json", check=False)
    return [one["runs"] and one["starts_with_machine"] for one in json.loads(said)["services"]] == [True] * len(UNITS)


def has_joined(system: BootedSystem, root: Path, invitation: str) -> bool:
    linguabus(system, "join", "--no-run", invitation, check=False)  # in vain until the host listens
    return (root / HOME.lstrip("/") / "node/credential.json").exists()


def test_the_machine_starts_anew_and_the_fleet_is_back(start: Callable[[], BootedSystem], root: Path) -> None:
    system = start()
    broker_port, http_port, host_port, api_port = free_ports(4)
    ports = ("--broker-port", str(broker_port), "--http-port", str(http_port), "--host-port", str(host_port))
    linguabus(system, "init", "--address", HOST, "--listen", HOST, *ports)
    install = ("service", "install", "--as", "root")
    said = linguabus(system, *install, "serve", "--with-broker", "--model", TINY)
    assert "linguabus-serve runs, and starts with the machine" in said
    invitation = linguabus(system, "invite", "kitchen").split()[-1]
    until(system, lambda: has_joined(system, root, invitation))
    linguabus(system, *install, "node", "--memory-limit-mb", "400", "--threads", "1")
    linguabus(system, *install, "api", "--port", str(api_port))
    until(system, lambda: is_asked(system, api_port))
    assert are_active(system)

    system.run("systemctl", "kill", "--signal=KILL", "linguabus-node")
    until(system, lambda: is_asked(system, api_port))
    assert "NRestarts=1" in system.run("systemctl", "show", "--property=NRestarts", "linguabus-node")

    system.restart()
    system = start()
    until(system, lambda: is_asked(system, api_port))
    assert are_active(system)

    for unit in UNITS:
        assert f"linguabus-{unit} is removed" in linguabus(system, "service", "remove", unit)
    assert not list((root / "etc/systemd").rglob("*linguabus*"))
    assert "nothing is installed" in linguabus(system, "service", "status", check=False)
    assert "linguabus" not in system.run("systemctl", "list-units", "--all", "--no-pager", "--plain")
