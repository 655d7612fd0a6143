"""``linguabus doctor`` finds what was planted, and says what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from broker import link_check
from broker.address import BrokerAddress
from broker.credential import FILE, Credential
from broker.free_ports import free_port
from broker.link_check import check_link
from broker.local_broker import LocalBroker
from broker.member_key import new_key
from broker.mqtt import MqttBus
from orchestrator.commands import doctor_host
from orchestrator.commands.doctor_host import check_host
from orchestrator.commands.doctor_report import QUESTIONS, write_report
from orchestrator.identity.authority import make_authority
from orchestrator.model.store import ModelStore
from schemas.finding import Finding, ok
from schemas.roles import Role
from schemas.topics import NODE_ECHO, NODE_STATUS
from tests.support.bus_recorder import until
from tests.support.certificates import write_certificate
from tests.support.configured_broker import configured_broker
from tests.support.fleet_world import HOST, FleetWorld, enrol, make_fleet
from tests.support.mqtt_proxy import MqttProxy, Side
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet
from tests.support.small_disk import fill, small_disk

LINGUABUS = (sys.executable, "-m", "orchestrator.cli")
DAY_S = 86_400.0


def one(findings: Iterator[Finding] | list[Finding], check: str, state: str) -> Finding:
    """The finding about something, which is to be of this state; what is wrong has a remedy."""
    every = list(findings)
    [found] = [finding for finding in every if finding.check == check and finding.state == state] or [None]
    assert found, every
    assert bool(found.remedy) == (state != "ok")
    return found


@contextmanager
def doctor(home: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[list[Finding]]:
    """What ``linguabus doctor --json`` finds. Its exit code fits."""
    done = subprocess.run(
        [*LINGUABUS, "--home", str(home), "doctor", "--json", *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **(environment or {})}, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == bool(said["failed"]), done.stderr
    yield [Finding(**{k: v for k, v in finding.items() if k != "role"}) for finding in said["findings"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    """A fleet at work, with two nodes and a client."""
    home = tmp_path_factory.mktemp("fleet")
    with served_fleet(home, tiny_store, {"alfa": "node", "bravo": "node", "ann": "client"}) as served:
        yield served


def test_all_is_well(world: FleetWorld, tmp_path: Path) -> None:
    world.members["alfa"].save(tmp_path / "node" / FILE)
    with doctor(tmp_path, "--report", str(tmp_path / "report.yaml")) as found:
        assert {finding.check for finding in found} >= {
            "python", "numpy", "onnxruntime", "operators", "disk", "credential", "memory", "open files", "broker",
            "encryption", "certificate", "orchestrator", "clock", "membership", "round trip", "message length",
        }  # fmt: skip
        assert not [finding for finding in found if finding.state == "failed"]
    text = (tmp_path / "report.yaml").read_text()
    report = yaml.safe_load(text)
    assert list(report["questions"]) == list(QUESTIONS)
    assert len(report["findings"]) == len(found)
    for word in (world.members["alfa"].key, "alfa", HOST, socket.gethostname()):
        assert word not in text


def test_a_report_leaves_out_names_and_not_parts_of_words(world: FleetWorld, tmp_path: Path) -> None:
    named = enrol(world.fleet, "cli", "client")
    named.save(tmp_path / FILE)
    write_report(tmp_path / "report.yaml", [("client", ok("credential", "a client by the name of cli"))], tmp_path)
    report = yaml.safe_load((tmp_path / "report.yaml").read_text())
    assert report["findings"][0]["said"] == "a client by the name of NAME"


# --- the link -------------------------------------------------------------------------------------------------


def look(member: Credential, *, http: bool = True, now_s: float | None = None, **changes: object) -> list[Finding]:
    address: BrokerAddress = replace(member.broker(), **changes)  # type: ignore[arg-type]
    port = member.http_port if http else None
    return list(check_link(address, http_port=port, now=lambda: now_s or time.time()))


def test_no_broker(world: FleetWorld) -> None:
    assert "serve --with-broker" in one(look(world.members["alfa"], port=free_port()), "broker", "failed").remedy


def test_no_such_name(world: FleetWorld) -> None:
    assert "by the name" in one(look(world.members["alfa"], host="no-such-host.invalid"), "broker", "failed").said


def test_a_blocked_port(world: FleetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_check, "TIMEOUT_S", 0.3)
    with socket.socket() as blocked:
        blocked.bind((HOST, 0))
        blocked.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        try:
            for one_more in waiting:  # until the queue of those who wait is full
                one_more.setblocking(False)
                one_more.connect_ex(blocked.getsockname())
            found = one(look(world.members["alfa"], port=blocked.getsockname()[1]), "broker", "failed")
        finally:
            for one_more in waiting:
                one_more.close()
    assert "no answer" in found.said
    assert "firewall" in found.remedy


def test_another_fleet(world: FleetWorld) -> None:
    found = look(world.members["alfa"], authority=make_authority()[1])
    assert "another fleet" in one(found, "encryption", "failed").said
    assert "do not trust this network" in one(found, "encryption", "failed").remedy


def test_a_broker_without_encryption(world: FleetWorld, open_mosquitto: LocalBroker) -> None:
    assert (
        "broker without encryption"
        in one(look(world.members["alfa"], port=open_mosquitto.port), "encryption", "failed").remedy
    )


@pytest.mark.parametrize(
    ("days", "host", "said"),
    [((-9, -1), HOST, "is over"), ((1, 9), HOST, "is not good yet"), ((-1, 9), "10.9.8.7", "for other names")],
)
def test_a_certificate_that_is_not_good(
    world: FleetWorld, tmp_path: Path, days: tuple[float, float], host: str, said: str
) -> None:
    files = write_certificate(tmp_path, "server", days=days, host=host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection, contextlib.suppress(OSError):  # it is not believed
            context.wrap_socket(connection, server_side=True).close()

    with socket.create_server((HOST, 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        authority = files.certificate.read_text()
        found = look(world.members["alfa"], http=False, port=listener.getsockname()[1], authority=authority)
        server.join()
    assert said in one(found, "encryption", "failed").said


def test_a_clock_that_is_wrong(world: FleetWorld) -> None:
    alfa = world.members["alfa"]
    assert "1 d ahead" in one(look(alfa, now_s=time.time() + DAY_S), "clock", "failed").said
    assert "5 min behind" in one(look(alfa, now_s=time.time() - 300), "clock", "warning").said


def test_a_certificate_that_ends_soon(world: FleetWorld) -> None:
    found = look(world.members["alfa"], now_s=time.time() + 85 * DAY_S)
    assert "good for 5 days" in one(found, "certificate", "warning").said


def test_no_orchestrator(world: FleetWorld) -> None:
    alfa = replace(world.members["alfa"], http_port=free_port())
    assert "though the broker is there" in one(look(alfa), "orchestrator", "failed").said
    alfa = replace(alfa, http_port=alfa.broker_port)
    assert one(look(alfa), "orchestrator", "failed").remedy


def test_somebody_who_was_revoked(world: FleetWorld) -> None:
    gone = enrol(world.fleet, "gone", "node")
    with world.fleet.register() as register:
        register.revoke("gone")
    end_s = time.monotonic() + DEADLINE_S
    while ok("membership", "the broker lets gone in") in (found := look(gone)):
        assert time.monotonic() < end_s, "it is still let in"
    assert "was gone revoked?" in one(found, "membership", "failed").remedy


@pytest.mark.parametrize(("role", "folder"), [("node", "node"), ("client", "."), ("operator", ".")])
def test_how_somebody_who_was_revoked_comes_back(world: FleetWorld, tmp_path: Path, role: Role, folder: str) -> None:
    file = tmp_path / folder / FILE
    replace(world.members["alfa"], role=role, key=new_key()).save(file)
    with doctor(tmp_path) as found:
        remedy = one(found, "membership", "failed").remedy
    assert f"linguabus invite alfa --{role}; here: remove {file}, then" in remedy


# --- the device -----------------------------------------------------------------------------------------------


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)


def write_command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_phone_with_much_wrong_with_it(tmp_path: Path) -> None:
    libraries, commands = tmp_path / "libraries", tmp_path / "commands"
    write_module(libraries, "numpy", "raise ModuleNotFoundError(\"No module named 'numpy'\")")
    write_module(libraries, "onnxruntime", "__version__ = '1.20.1'\nget_available_providers = list")
    write_command(commands, "termux-battery-status", "echo '{}'")
    write_command(commands, "getprop", "echo 33")
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / FILE).write_text("{")
    environment = {
        "PYTHONPATH": f"{libraries}{os.pathsep}{ROOT}",
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PREFIX": "/data/data/com.termux/files/usr",
    }
    with doctor(tmp_path, "--as", "node", environment=environment) as found:
        assert one(found, "numpy", "failed").remedy == "pkg install python-numpy"
        assert "1.24.4 or newer" in one(found, "onnxruntime", "failed").remedy
        assert "linguabus invite" in one(found, "credential", "failed").remedy
        assert "Termux:API" in one(found, "battery", "warning").remedy
        assert "settings_enable_monitor_phantom_procs" in one(found, "android", "warning").remedy


def test_a_library_of_another_processor_and_a_full_disk(world: FleetWorld, tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    write_module(libraries, "onnxruntime", "import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    with small_disk(tmp_path / "home", 1 << 20) as home:
        world.members["alfa"].save(home / "node" / FILE)
        (home / "node" / FILE).chmod(0o644)
        fill(home)
        environment = {"PYTHONPATH": f"{libraries}{os.pathsep}{ROOT}"}
        with doctor(home, "--as", "node", environment=environment) as found:
            assert "signal 4" in one(found, "onnxruntime", "failed").said
            assert "make room" in one(found, "disk", "failed").said
            assert "chmod 600" in one(found, "credential", "failed").remedy


def test_no_fleet_and_few_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [*LINGUABUS, "--home", str(tmp_path), "doctor", "--as", "node", "--as", "client"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE_S, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    assert done.returncode == 1
    for line in ("this device has joined no fleet", "this machine has joined no fleet", "-> ulimit -n 4096"):
        assert line in done.stdout


def test_a_slow_broker_that_passes_on_little(tmp_path: Path) -> None:
    """Where somebody else has the name, too."""
    topic = NODE_STATUS.format(node="alfa")
    with configured_broker(tmp_path, "message_size_limit 20000") as port, MqttProxy(f"mqtt://{HOST}:{port}") as proxy:
        proxy.delay(NODE_ECHO.filter(), 0.04, side=Side.UP, overtake=False)
        with MqttBus(f"mqtt://{HOST}:{port}", client_id="alfa") as bus:
            bus.connect()
            bus.publish(topic, b'{"state":"online"}', qos=1, retain=True)
            bus.poll(0.1)
            command = [
                sys.executable, "-m", "edge_node.telemetry.doctor", "--home", str(tmp_path), "--broker", proxy.url,
                "--name", "alfa",
            ]  # fmt: skip
            found: list[Finding] = []

            def is_taken_for_nagle() -> bool:
                done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
                found[:] = [Finding(**json.loads(line)) for line in done.stdout.splitlines()]
                return "set_tcp_nodelay" in next(finding.remedy for finding in found if finding.check == "round trip")

            until("a moment in which 40 ms are not much more", is_taken_for_nagle)
    assert "--name" in one(found, "name", "warning").remedy
    assert "message_size_limit" in one(found, "message length", "warning").remedy


# --- the host -------------------------------------------------------------------------------------------------


def test_a_host_with_much_wrong_with_it(
    tmp_path: Path, tiny_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_host, "find_mosquitto", lambda: None)
    monkeypatch.setattr(doctor_host, "solver_name", lambda: None)
    fleet = make_fleet(tmp_path)
    assert "linguabus model add" in one(check_host(tmp_path, ()), "model", "failed").remedy
    (tmp_path / "models").symlink_to(tiny_store.home)
    fleet.server_file.chmod(0o644)
    (fleet.path / "authority.key").write_text(make_authority()[0])
    with socket.create_server((HOST, fleet.settings.broker_port)) as other:
        threading.Thread(target=lambda: other.accept()[0].close(), daemon=True).start()
        found = list(check_host(tmp_path, ()))
    assert one(found, "mosquitto", "failed").remedy == "apt install mosquitto"
    assert "glpk-utils" in one(found, "solver", "failed").remedy
    assert one(found, "model", "ok").said == "tiny is the active one"
    assert fleet.server_file.name in one(found, "files", "failed").said
    assert "another one's" in one(found, "authority", "failed").said
    assert [finding.state for finding in found if finding.check == "port"] == ["failed", "ok", "ok"]
    assert "--broker-port" in one(found, "port", "failed").remedy
    assert "--address" in one(found, "addresses", "warning").remedy


def test_a_disk_that_takes_nothing_is_no_damaged_fleet(tmp_path: Path) -> None:
    with small_disk(tmp_path / "home", 4 << 20) as home:
        invite = [*LINGUABUS, "--home", str(home), "invite", "phone"]
        make_fleet(home)
        fill(home)
        found = list(check_host(home, ()))
        assert "make room" in one(found, "disk", "failed").said
        assert one(found, "fleet", "ok").said == "2 members"
        full = subprocess.run(invite, capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE_S, check=False)
        assert (full.returncode, f"make room in {home / 'fleet'}" in full.stderr) == (2, True), full.stderr
        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        found = list(check_host(home, ()))
        assert "a folder you may write to" in one(found, "disk", "failed").said
        assert "a folder you may write to" in one(found, "fleet", "failed").said
        assert not any("backup" in f"{finding.said} {finding.remedy}" for finding in found)


def test_a_model_that_lost_a_file(tmp_path: Path, tiny_store: ModelStore) -> None:
    blob = tiny_store.show("tiny").blobs[0]
    home = tmp_path / "models"
    for path in tiny_store.home.rglob("*"):
        if path.is_file() and path.name != blob.sha256:
            target = home / path.relative_to(tiny_store.home)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    assert "lacks 1 of its files" in one(check_host(tmp_path, ()), "model", "failed").said
    assert "linguabus init" in one(check_host(tmp_path, ()), "fleet", "warning").remedy
