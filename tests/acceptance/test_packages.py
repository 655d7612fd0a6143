"""linguabus out of its wheel and its source archive, in environments that have nothing else, as on other devices."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from tests.support.built_packages import Environment, bare, build_packages
from tests.support.fleet_world import FleetWorld, invitation_line
from tests.support.nodes import NodeProcess, running_node
from tests.support.polling import DEADLINE_S
from tests.support.served_fleet import served_fleet
from tests.support.services import wait_until_serving

pytestmark = [pytest.mark.packages, pytest.mark.timeout(1800)]

KINDS = ("wheel", "sdist")
INSTALL_S = 900.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_packages(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    with served_fleet(tmp_path_factory.mktemp("fleet"), tiny_store, {"ann": "operator"}) as served:
        yield served


def words_for(world: FleetWorld, name: str, *options: str) -> list[str]:
    """Those of the line that the host's owner reads, behind "linguabus"."""
    return invitation_line(world.fleet, name, *options).removeprefix("linguabus ").split()


@contextmanager
def running(name: str, command: Sequence[str | Path], home: Path) -> Iterator[None]:
    """A node that goes on in the block, and ends well."""
    with running_node(name, command, home, cwd=home, env=bare(LINGUABUS_HOME=str(home))):
        yield


def answers_with(world: FleetWorld, name: str, deadline_s: float = DEADLINE_S) -> None:
    """The fleet answers, and this is its only node, once it is there."""
    with world.bus("ann") as bus:
        client = Client(bus, name="ann", broker=str(bus.address))
        await_nodes(client, {name: "online"}, deadline_s)
        wait_until_serving(client)
        assert list(client.ask(prompt="def f(x):", max_tokens=4))


def await_nodes(client: Client, states: dict[str, str], deadline_s: float = DEADLINE_S) -> None:
    """These are there, in their states, and no others: one that is silent is not gone."""
    end_s = time.monotonic() + deadline_s
    while {node.node: node.state for node in client.nodes().nodes if node.state != "offline"} != states:
        assert time.monotonic() < end_s, client.nodes()
        time.sleep(0.1)


def revoke(world: FleetWorld, name: str) -> None:
    with world.fleet.register() as register:
        register.revoke(name)


@pytest.mark.parametrize("kind", KINDS)
def test_without_extras_it_asks_and_with_one_it_serves(
    built: dict[str, Path], world: FleetWorld, kind: str, tmp_path: Path
) -> None:
    environment = Environment.make(tmp_path / "venv")
    environment.install(str(built[kind]))
    assert environment.run("linguabus", "version").startswith("linguabus 0.")
    desk, home = tmp_path / "desk", tmp_path / "home"
    environment.run("linguabus", "--home", str(desk), *words_for(world, f"desk-{kind}", "--client"))
    for program, *arguments in (("linguabus-node",), ("linguabus", "init"), ("linguabus", "model", "add", "demo")):
        said = environment.run(program, *arguments, fails=True, LINGUABUS_HOME=str(tmp_path / "empty"))
        assert "Traceback" not in said
        assert "pip install 'linguabus[" in said

    environment.install(f"{built[kind]}[edge]")
    name = f"pi-{kind}"
    home.mkdir()
    with running(name, [tmp_path / "venv/bin/linguabus", *words_for(world, name)], home):
        answers_with(world, name)
        assert environment.run("linguabus", "--home", str(desk), "ask", "def f(x):", "--max-tokens", "4").strip()
    revoke(world, name)


def test_by_pipx(built: dict[str, Path], world: FleetWorld, tmp_path: Path) -> None:
    """As the README has it for laptops: installed, joined, and started again without an invitation."""
    pipx = Environment.make(tmp_path / "pipx")
    pipx.install("pipx")
    home = tmp_path / "home"
    home.mkdir()
    folders = {
        "PIPX_HOME": str(tmp_path / "apps"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
    }
    command = [tmp_path / "pipx/bin/pipx", "install", "--quiet", f"{built['wheel']}[edge]"]
    subprocess.run(command, env=bare(**folders), cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"linguabus", "linguabus-node"}
    with running("laptop", [tmp_path / "bin/linguabus", *words_for(world, "laptop")], home):
        answers_with(world, "laptop")
    with running("laptop", [tmp_path / "bin/linguabus-node"], home):
        answers_with(world, "laptop")
    revoke(world, "laptop")


def test_by_the_line_that_installs_it(world: FleetWorld, tmp_path: Path) -> None:
    """A Linux without linguabus: its Python is left alone, and nothing but one folder is written."""
    words = words_for(world, "old-laptop", "--phone")
    folder = tmp_path / ".local/share/linguabus"
    environment = bare(HOME=str(tmp_path), PIP_NO_CACHE_DIR="1")
    begun = ["sh", "-c", " ".join(words)]
    for again in (False, True):
        log_path = tmp_path / f"log-{again}"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                begun, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        node = NodeProcess("old-laptop", tmp_path, process, log_path)
        try:
            answers_with(world, "old-laptop", INSTALL_S)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            node.end()
            # The shell ends at once; the node behind it leaves in its own time.
            with world.bus("ann") as bus:
                await_nodes(Client(bus, name="ann", broker=str(bus.address)), {})
        assert ("an environment of its own" in node.log()) != again, node.log()
        assert str(folder / "environment/bin/linguabus node") in node.log()
    revoke(world, "old-laptop")
    subprocess.run(["sh", folder / "install.sh", "--uninstall"], env=environment, check=True)
    assert not folder.exists()
