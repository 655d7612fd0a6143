"""A phone joins by one pasted line, in a simulated Termux: twice, killed on its way, beside commands that hang."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.own_wheel import Wheel, own_wheel
from orchestrator.service.phone_files import script_for
from tests.support.fleet_world import FleetWorld, invitation_line
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet
from tests.support.services import wait_until_serving
from tests.support.simulated_termux import SimulatedTermux

SCRIPT = ROOT / "edge_node" / "android" / "install.sh"


@pytest.fixture
def termux(tmp_path: Path) -> Iterator[SimulatedTermux]:
    phone = SimulatedTermux(tmp_path / "phone")
    yield phone
    phone.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    with served_fleet(tmp_path_factory.mktemp("fleet"), tiny_store, {"ann": "operator"}) as served:
        yield served


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([shellcheck if shellcheck.exists() else "shellcheck", "--shell=sh", SCRIPT], check=True)


def test_from_nothing_to_an_answer_and_twice(termux: SimulatedTermux, world: FleetWorld) -> None:
    line = invitation_line(world.fleet, "phone", "--phone")
    assert line.startswith("curl -sSfk --pinnedpubkey sha256//")
    termux.run(line)
    assert termux.service_pid
    assert "linguabus 0." in termux.run("linguabus version")
    assert "/mnt/data/data/com.termux" in termux.run("python -c 'import edge_node; print(edge_node.__file__)'")
    with world.bus("ann") as bus:
        client = Client(bus, name="ann", broker=str(bus.address))
        wait_until_serving(client)
        assert [node.node for node in client.nodes().nodes] == ["phone"]
    first = termux.called()
    termux.run(line)
    again = termux.called()[len(first) :]
    assert again.count("curl") == 1, "what comes from there again is the script alone"
    assert set(again) == {"curl", "termux-wake-lock", "start-services.sh", "sv-enable", "sv"}, (
        "nothing is installed twice"
    )
    doctor = termux.run("linguabus --home ~/.local/share/linguabus doctor")
    assert "FAILED" not in doctor
    assert "80 %, charging" in doctor

    finish = "sleep() { echo waits; }; set -- %d; . $PREFIX/var/service/linguabus-node/finish"
    assert [termux.run(finish % code) for code in (0, 2)] == ["", "waits\n"]
    button = "--button1 Pause --button1-action /mnt/data/data/com.termux/files/usr/bin/linguabus-node pause --home"
    assert any(button in shown for shown in termux.notifications())
    termux.run("sh ~/.local/share/linguabus/install.sh --uninstall")
    assert termux.service_pid is None
    assert not list(termux.home.rglob("*linguabus*"))
    assert not (termux.prefix / "var/service/linguabus-node").exists()
    assert not (termux.prefix / "bin/linguabus").exists()
    with world.fleet.register() as register:
        assert "phone" not in {member.name for member in register.members()}


def killed_and_again(termux: SimulatedTermux, world: FleetWorld, name: str, steps: Sequence[int]) -> None:
    """All is killed at so many calls, then the line is pasted again, and killed at so many more."""
    line = invitation_line(world.fleet, name, "--phone")
    called = 0
    for step in steps:
        termux.run(line, killed_at=called + step, succeeds=False)
        called = len(termux.calls())
    termux.run(line)
    assert termux.service_pid
    assert not list(termux.home.rglob("*.new"))
    assert "FAILED" not in termux.run("linguabus --home ~/.local/share/linguabus doctor")


def test_killed_on_its_way(termux: SimulatedTermux, world: FleetWorld) -> None:
    killed_and_again(termux, world, "killed", (2, 4, 4, 6, 4))


@pytest.mark.long
@pytest.mark.parametrize("step", range(1, 11))
def test_killed_at_each_step(termux: SimulatedTermux, world: FleetWorld, step: int) -> None:
    killed_and_again(termux, world, f"killed-{step}", (step,))


def test_commands_that_hang_and_fail(termux: SimulatedTermux, world: FleetWorld) -> None:
    """A mirror that is away is told; without a wake lock and services the node runs in the foreground."""
    line = invitation_line(world.fleet, "hangs", "--phone")
    termux.behaves("pkg", "fail")
    assert "termux-change-repo" in termux.run(line, succeeds=False)
    termux.behaves("pkg", "")
    termux.behaves("termux-wake-lock", "hang")
    termux.behaves("sv-enable", "hang")
    process = termux.start(line)
    try:
        assert process.stdout
        for said in ("no wake lock", "termux-services does not answer", "stop with Ctrl-C"):
            assert any(said in text for text in process.stdout), said
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


def test_it_does_nothing_where_it_should_not(termux: SimulatedTermux, world: FleetWorld, tmp_path: Path) -> None:
    line = invitation_line(world.fleet, "wary", "--phone")
    pin = line.split()[3]
    assert "match pinned public key" in termux.run(line.replace(pin, f"sha256//{'A' * 43}="))
    assert termux.called() == ["curl"]

    def script(text: str) -> Path:
        (termux.home / "join.sh").write_text(text)
        return termux.home / "join.sh"

    text = SCRIPT.read_text()
    for size in range(0, text.index('\nmain "$@"'), 997):
        script(text[:size])
        subprocess.run(
            ["/bin/sh", str(termux.home / "join.sh"), "x"], env={"PATH": ""}, capture_output=True, check=False
        )
    assert termux.called() == ["curl"]

    (tmp_path / ".local/share/linguabus/fleet").mkdir(parents=True)
    host = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for given in ("linguabus://x", "--uninstall"):
        refused = subprocess.run(
            ["sh", str(script(text)), given], env=host, capture_output=True, text=True, check=False
        )
        assert "this machine is the host of a fleet" in refused.stderr
    assert (tmp_path / ".local/share/linguabus/fleet").exists()
    assert "paste the whole line" in termux.run("sh join.sh linguabus", succeeds=False)
    client = invitation_line(world.fleet, "desk", "--client").split()[-1]
    assert "not for a node" in termux.run(f"sh join.sh {client}", succeeds=False)
    script(script_for(Wheel(own_wheel().name, b"another one")))
    assert "do not trust this network" in termux.run(f"sh join.sh {line.split()[-1]}", succeeds=False)
    assert shutil.which("linguabus", path=str(termux.prefix / "bin")) is None
