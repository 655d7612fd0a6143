"""Devices with 64-bit ARM join by the line that `linguabus invite` prints, over TLS, beside others."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.commands.demo_model import demo_model
from orchestrator.commands.settings import default_cache
from orchestrator.model.store import ModelStore
from schemas.fleet_views import NodeView
from schemas.messages import ChatMessage
from tests.support.arm64 import CHIPS, arm64_programs, arm64_python, cpuinfo
from tests.support.container_images import served
from tests.support.debian_system import DebianSystem, debian_system, end, fresh_copy
from tests.support.fleet_world import FleetWorld, invitation_line
from tests.support.nodes import running_node
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet
from tests.support.services import apply, wait_until_serving
from tests.support.wheels import download_wheels

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(3600)]

CHIP = CHIPS[-1]
PATIENT = ("--watchdog-s", "60")
"""That a node is slow is no reason to repeat anything."""
QUESTION = ChatMessage(role="user", content="What is the capital of Japan?")
FRESH = ("curl",)
"""What a Debian needs for the line, besides the least that Debian is."""
RELEASE = "trixie"
COMPILERS = ("cc", "gcc", "g++", "clang", "rustc", "cargo", "cmake", "make", "ld")
"""Of which such a Debian has none."""


@contextmanager
def joined(world: FleetWorld, name: str, home: Path, *options: str, python: str = sys.executable) -> Iterator[None]:
    """A device that has run the line, and lends itself."""
    words = invitation_line(world.fleet, name).split()
    assert words[:2] == ["linguabus", "join"]
    home.mkdir()
    command = [python, "-m", "orchestrator.cli", "--home", str(home), "-v", *words[1:], *PATIENT, *options]
    with running_node(name, command, home):
        yield


def nodes_of(client: Client) -> dict[str, NodeView]:
    return {node.node: node for node in client.nodes().nodes}


def await_nodes(client: Client, names: set[str], deadline_s: float = 600.0) -> None:
    end_s = time.monotonic() + deadline_s
    while nodes_of(client).keys() != names:
        assert time.monotonic() < end_s, nodes_of(client)
        time.sleep(0.2)


def test_a_phones_processor_in_a_fleet_that_answers(tmp_path: Path) -> None:
    """A real model and a real question; the head, which chooses each word, is on the phone."""
    store, model = demo_model(default_cache())
    (tmp_path / "machine").mkdir()
    phone = arm64_python(CHIP, tmp_path / "machine")
    settings = {"model": model, "min_nodes": 3, "context_tokens": 256, "slots": 1}
    with (
        served_fleet(tmp_path / "fleet", store, {"ann": "operator"}, **settings) as world,
        joined(world, "tablet", tmp_path / "tablet", "--memory-limit-mb", "400"),
        joined(world, "laptop", tmp_path / "laptop", "--memory-limit-mb", "400"),
        joined(world, "phone", tmp_path / "phone", python=phone),
        world.bus("ann") as bus,
    ):
        assert bus.address.tls
        client = Client(bus, name="ann", broker=str(bus.address), control_timeout_s=120.0, lease_s=120.0)
        await_nodes(client, {"tablet", "laptop", "phone"})
        wait_until_serving(client)
        apply(client, timeout_s=600.0, pins=[["head", "phone"]])
        stages = client.plan().stages
        assert stages[-1].node == "phone"
        assert {stage.node for stage in stages} > {"phone"}
        assert nodes_of(client)["phone"].platform == "Linux aarch64"
        begun_s = time.monotonic()
        text = "".join(client.ask([QUESTION], max_tokens=12))
        assert "Tokyo" in text
        print(f"{text!r} in {time.monotonic() - begun_s:.1f} s by {[stage.node for stage in stages]}")


def test_one_line_on_a_fresh_debian(tiny_store: ModelStore, tmp_path: Path) -> None:
    """From the invitation to an answer: its steps timed, nothing compiled."""
    with ExitStack() as stack:
        stack.enter_context(arm64_programs())
        root = stack.enter_context(fresh_copy(debian_system(RELEASE, FRESH, architecture="arm64"), tmp_path))
        address = stack.enter_context(served(wheels(tmp_path / "wheels", python="3.13")))
        (root / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {address}\n")
        (tmp_path / "cpuinfo").write_text(cpuinfo(CHIP))
        machine = DebianSystem(root, binds={tmp_path / "cpuinfo": "/proc/cpuinfo"})
        world = stack.enter_context(served_fleet(tmp_path / "fleet", tiny_store, {"ann": "operator"}))
        bus = stack.enter_context(world.bus("ann"))
        client = Client(bus, name="ann", broker=str(bus.address), control_timeout_s=120.0, lease_s=120.0)
        environment = {
            "HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
            "QEMU_CPU": CHIP.name, "PIP_LOG": "/root/pip.log",
        }  # fmt: skip

        line = invitation_line(world.fleet, "fresh", "--phone", "--expires", "1h")  # an emulated machine takes its time
        begun_s = time.monotonic()
        process = machine.start(
            ["sh", "-c", line], environment=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        stack.enter_context(process)
        stack.callback(end, process)
        assert process.stdout
        said: list[tuple[float, str]] = []
        for text in process.stdout:
            said.append((time.monotonic() - begun_s, text.strip()))
            if "the node runs here" in text:
                break
        assert said[-1][1].startswith("==> the node runs here"), said
        wait_until_serving(client)
        said.append((time.monotonic() - begun_s, "serving"))
        assert nodes_of(client)["fresh"].platform == "Linux aarch64"
        assert len(list(client.ask(prompt="def f(x):", max_tokens=4))) > 0
        said.append((time.monotonic() - begun_s, "an answer"))
        print("".join(f"\n{at_s:7.1f} s  {text}" for at_s, text in said))

        log = (root / "root/pip.log").read_text()
        assert "Building wheel" not in log
        assert ".tar.gz" not in log
        inside = [root / folder / name for folder in ("usr/bin", "usr/local/bin") for name in COMPILERS]
        assert [path for path in inside if path.exists()] == []


def wheels(folder: Path, *, python: str) -> Path:
    """What a node needs, as a package index would give it to that machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted: Sequence[str] = [*project["dependencies"], *project["optional-dependencies"]["edge"], "psutil"]
    download_wheels(folder, wanted, python=python, machine="aarch64")
    assert not [file for file in folder.iterdir() if file.suffix != ".whl"]
    return folder
