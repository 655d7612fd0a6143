"""``docker-compose.yml`` with a real container engine, by each Compose on this machine (v2, and v1 where it is there).

The engine is the machine's own where one answers; else the test starts a dockerd with folders of its own, as root, and
ends it. Where the base images are neither there nor to be had from a registry, stand-ins made by debootstrap take their
names: this machine's Debian release with its Python (also where that isn't the version in the Dockerfiles) and its
Mosquitto. Then pip, too, gets its packages from this machine, in the builds and for the demo's model. All else is as in
the files that users have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.address import BrokerAddress
from broker.credential import FILE, Credential
from broker.errors import BrokerRefused, BrokerUnreachable
from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from tests.support.container_engine import HOST, Engine, Project, composes, engine, free_ports
from tests.support.container_images import MOSQUITTO, debian, demo_model_wheel, import_image, served, wheels
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]

BROKER_IMAGE = "eclipse-mosquitto:2"
PYTHON = "3.13"  # as in the Dockerfiles
IMAGES = ("linguabus-orchestrator", "linguabus-node")
NODES = {"node-1", "node-2", "node-3"}
TIMEOUT_S = 120.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only a command can tell."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.fixture(scope="module")
def running_engine() -> Iterator[Engine]:
    with engine() as running:
        yield running


@pytest.fixture(scope="module")
def files(running_engine: Engine) -> Iterator[list[Path]]:
    """The project's Compose file and one with what this machine needs, once the images are built."""
    made: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lb-images-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # containers read it, and not as root
        find = folder / "wheels"
        find.mkdir()
        demo_model_wheel(find)
        python = PYTHON
        with served(find) as address:
            if not all(running_engine.has(image) for image in (BROKER_IMAGE, f"python:{PYTHON}-slim")):
                system = folder / "debian"
                python = debian(system)
                (system / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {address}\n")
                made = [BROKER_IMAGE, f"python:{python}-slim"]
                import_image(running_engine, system, made[0], MOSQUITTO)
                import_image(running_engine, system, made[1], ["python3"])
                wheels(find, python, os.environ.get("TORCH_INDEX", ""))
            build = {"build": {"network": "host", "args": {"PYTHON": python}}}
            pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
            changes = {
                "init": build,
                "node-1": build,
                "model": {"environment": pip, "volumes": [f"{find}:/wheels:ro"]},
            }
            (folder / "here.yml").write_text(json.dumps({"services": changes}))  # JSON is YAML
            both = [ROOT / "docker-compose.yml", folder / "here.yml"]
            newest = max(composes().items())[1]
            Project(running_engine, newest, "linguabus-build", both, free_ports())("--profile", "demo", "build")
        yield both
    running_engine.docker("image", "rm", "--force", *made, *IMAGES)


@pytest.fixture(params=sorted(composes()), ids=lambda major: f"v{major}")
def project(request: pytest.FixtureRequest, running_engine: Engine, files: list[Path]) -> Iterator[Project]:
    project = Project(
        running_engine, composes()[request.param], f"linguabus-test-v{request.param}", files, free_ports()
    )
    try:
        yield project
    finally:
        project("--profile", "demo", "down", "--volumes")
        assert running_engine.leftovers(project.name) == []


def answer_to(address: BrokerAddress) -> type[Exception] | None:
    """What becomes of an attempt to connect: an error, or None."""
    try:
        with MqttBus(address, client_id="attempt") as bus:
            bus.connect(timeout_s=10.0)
    except BrokerRefused:  # a member in words of its own
        return BrokerRefused
    except BrokerUnreachable:
        return BrokerUnreachable
    return None


def test_the_fleet_answers_and_leaves_nothing(project: Project, tmp_path: Path) -> None:
    def state(service: str, what: str) -> str:
        (container,) = project("--profile", "demo", "ps", "--all", "--quiet", service).split()
        return project.engine.docker("inspect", "--format", f"{{{{.State.{what}}}}}", container).strip()

    def linguabus(*arguments: str) -> str:
        return project("exec", "-T", "orchestrator", "linguabus", *arguments)

    def nodes() -> set[str]:
        found = json.loads(linguabus("nodes", "--json"))["nodes"]
        return {node["node"] for node in found if node["state"] == "online"}

    project("up", "--detach")
    until(lambda: state("orchestrator", "Health.Status") == "healthy")
    assert state("broker", "Health.Status") == "healthy"
    assert nodes() == set()

    # A device outside: this machine itself, by the address and the ports that the containers publish.
    (line,) = linguabus("invite", "phone").splitlines()
    join = [str(Path(sys.executable).with_name("linguabus")), *line.split()[1:]]
    with subprocess.Popen(join, env={**os.environ, "LINGUABUS_HOME": str(tmp_path)}) as phone:
        try:
            until(lambda: nodes() == {"phone"})
        finally:
            phone.terminate()
    member = Credential.load(tmp_path / "node" / FILE)
    assert member
    assert (member.addresses[0], member.broker_port, member.http_port) == (HOST, *project.ports)
    assert answer_to(member.broker()) is None
    assert answer_to(replace(member.broker(), username=None, password=None)) is BrokerRefused
    assert answer_to(replace(member.broker(), password="guessed")) is BrokerRefused
    assert answer_to(BrokerAddress(HOST, project.ports[0])) is BrokerUnreachable  # no TLS
    linguabus("revoke", "phone")
    assert answer_to(member.broker()) is BrokerRefused

    project("--profile", "demo", "up", "--detach")
    assert {state(service, "ExitCode") for service in ("init", "invitations", "model")} == {"0"}
    until(lambda: nodes() == NODES)
    assert "Paris" in linguabus("ask", "What is the capital of France?")
    assert {stage["node"] for stage in json.loads(linguabus("plan", "--json"))["stages"]} == NODES
    for service in ("broker", "orchestrator", "node-1"):
        status = project("--profile", "demo", "exec", "-T", service, "cat", "/proc/1/status").splitlines()
        values = {line.split(":")[0]: line.split(":")[1].split() for line in status}
        assert "0" not in values["Uid"]
        assert int(values["CapBnd"][0], 16) == 0

    # The fleet and its members are the same at the next start.
    members = linguabus("members", "--json")
    project("--profile", "demo", "stop")
    project("--profile", "demo", "up", "--detach")
    until(lambda: nodes() == NODES)
    assert "Paris" in linguabus("ask", "What is the capital of France?")
    joined = [[(one["name"], one["joined_at"]) for one in json.loads(text)["members"]]
              for text in (members, linguabus("members", "--json"))]  # fmt: skip
    assert joined[0] == joined[1]

    project("--profile", "demo", "stop")
    assert {state(service, "ExitCode") for service in ("broker", "orchestrator", *NODES)} == {"0"}


def test_a_node_by_docker_run(
    running_engine: Engine, files: list[Path], tiny_store: ModelStore, tmp_path: Path
) -> None:
    """A device that has Docker alone joins by one line; its volume is all that it needs from then on."""
    volume = f"linguabus-test-{os.getpid()}"
    # Without Docker's own bridge, which the test's engine does not make.
    run = (
        "run", "--detach", "--stop-timeout=30", "--network=host", "--memory=400m", f"--volume={volume}:/data",
        "linguabus-node",
    )  # fmt: skip
    with (
        served_fleet(tmp_path / "fleet", tiny_store, {"ann": "operator"}) as world,
        world.bus("ann") as bus,
    ):
        client = Client(bus, name="ann", broker=str(bus.address))
        invite = [sys.executable, "-m", "orchestrator.cli", "--home", str(world.fleet.path.parent), "invite", "nas"]
        line = subprocess.run(invite, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
        try:
            for command in (line[1:], line[1:], []):  # as "--restart" does it, and as somebody else starts it
                container = running_engine.docker(*run, *command).strip()
                try:
                    until(lambda: [one.node for one in client.nodes().nodes if one.state == "online"] == ["nas"])
                    until(lambda: client.status().state == "serving")
                    assert list(client.ask(prompt="def f(x):", max_tokens=4))
                finally:
                    running_engine.docker("stop", container)
                    running_engine.docker("rm", container)
                until(lambda: [(one.state, one.reason) for one in client.nodes().nodes] == [("offline", "stopped")])
        finally:
            running_engine.docker("volume", "rm", "--force", volume)


@pytest.mark.parametrize("major", sorted(composes()))
def test_the_file_is_taken_with_each_profile(major: str) -> None:
    """No engine is asked: the images of Prometheus and Grafana may not be there."""
    for profile, services in (("demo", NODES), ("api", {"api"}), ("monitoring", {"api", "prometheus", "grafana"})):
        command = [*composes()[major], "--file", str(ROOT / "docker-compose.yml"), "--profile", profile, "config"]
        done = subprocess.run([*command, "--services"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert services <= set(done.stdout.split())


def test_images_hold_what_they_need(running_engine: Engine, files: list[Path]) -> None:
    def inside(image: str, *command: str) -> list[str]:
        run = ("run", "--rm", "--network=none", f"--entrypoint={command[0]}", image)
        return running_engine.docker(*run, *command[1:]).splitlines()

    packages = {line.split("==")[0] for line in inside("linguabus-node", "python", "-m", "pip", "freeze")}
    assert {"onnxruntime", "numpy"} <= packages
    assert not {"torch", "transformers", "pyomo", "onnx"} & packages
    assert not any(
        name.startswith("nvidia") for name in inside("linguabus-orchestrator", "python", "-m", "pip", "freeze")
    )
    assert not {".git", "tests", "docs", "benchmarks"} & set(inside("linguabus-orchestrator", "ls", "-a", "/app"))
    for image in IMAGES:
        assert inside(image, "id", "-un") == ["linguabus"]
