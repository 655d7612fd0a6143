"""``linguabus up``: what is missing is made, what is there is taken, its page answers, and it ends as a whole."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from broker.free_ports import free_ports
from orchestrator.model.store import ModelStore
from tests.support.fleet_commands import FleetCommands, Running
from tests.support.fleet_world import HOST
from tests.support.polling import DEADLINE_S

NAME = "this-one"


@pytest.fixture
def home(tmp_path: Path, tiny_store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a model, and a configuration file with ports that nobody else has."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(tiny_store.home)
    ports = dict(zip(("broker-port", "http-port", "host-port"), free_ports(3), strict=True))
    settings = {
        "init": {"listen": HOST, **ports},
        "up": {"port": 0, "name": NAME},
        "serve": {"context": 128, "model": "tiny"},
        "node": {"memory-limit-mb": 400},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("LINGUABUS_CONFIG", str(tmp_path / "config.yaml"))
    return home


def address(running: Running) -> str:
    running.wait_for("in a browser: ")
    return next(line.split()[3] for line in running.lines if line.startswith("in a browser: "))


def patient() -> httpx.Client:
    """Waits for a page that is being started."""
    return httpx.Client(transport=httpx.HTTPTransport(retries=10), timeout=DEADLINE_S)


def answered(page: str) -> str:
    question = {"model": "default", "prompt": "def f(x):", "max_tokens": 4, "temperature": 0}
    with patient() as client:
        answer = client.post(f"{page}v1/completions", json=question)
    return str(answer.json()["choices"][0]["text"])


def test_it_makes_a_fleet_that_answers_and_goes_on_with_it(home: Path) -> None:
    commands = FleetCommands()
    authorities = set()
    for _ in range(2):
        with commands.running(home, "up", until="  serving") as up:
            page = address(up)
            assert "<title>" in httpx.get(page, headers={"accept": "text/html"}, timeout=DEADLINE_S).text
            assert answered(page)
            assert f"already; in a browser: {page}" in commands.run(home, "up", fails=True)
            assert "the fleet's broker runs already" in commands.run(home, "serve", "--with-broker", fails=True)
            assert not any("no nodes" in line for line in up.lines)
            members = json.loads(commands.run(home, "members", "--json"))["members"]
            assert [one["name"] for one in members if one["role"] == "node"] == [NAME]
            authorities.add((home / "fleet" / "authority.crt").read_text())
            family = psutil.Process(up.process.pid).children(recursive=True)
            assert len(family) >= 4  # orchestrator, broker, node, page
        assert up.process.returncode == 0
        assert psutil.wait_procs(family, timeout=DEADLINE_S)[1] == []
    assert len(authorities) == 1


def part(up: Running, *words: str) -> psutil.Process:
    """The process of ``up`` with these words in its command line; the shell that looks after it is another one."""
    family = psutil.Process(up.process.pid).children(recursive=True)
    (found,) = (one for one in family if {*words} <= {*(line := one.cmdline())} and "tether" not in line)
    return found


def test_an_answer_goes_on_when_the_broker_was_killed(home: Path) -> None:
    with FleetCommands().running(home, "up", until="  serving") as up:
        page = address(up)
        question = {"model": "default", "prompt": "def f(x):", "max_tokens": 100, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{page}v1/completions", json=question, timeout=DEADLINE_S) as answer:
            pieces = (line for line in answer.iter_lines() if line.startswith("data: "))
            next(pieces)
            part(up, str(home / "fleet" / "broker" / "mosquitto.conf")).kill()
            assert [*pieces][-1] == "data: [DONE]"
        assert answered(page)
        assert "the broker was killed" in (home / "up" / "orchestrator.log").read_text()


def test_parts_that_are_killed_come_back_where_they_were(home: Path) -> None:
    with FleetCommands().running(home, "up", until="  serving") as up:
        page = address(up)
        for name, word in (("page", "api"), ("node", "edge_node"), ("orchestrator", "serve")):
            part(up, word).kill()
            up.wait_for(f"  {name} was killed")
            assert answered(page)
        family = psutil.Process(up.process.pid).children(recursive=True)
        part(up, "api").kill()  # its end comes in the pause
    assert up.process.returncode == 0
    assert psutil.wait_procs(family, timeout=DEADLINE_S)[1] == []


def test_a_part_that_ends_again_and_again_ends_all_and_says_why(home: Path) -> None:
    with FleetCommands().running(home, "up", "--no-node", until="in a browser") as up:
        family = psutil.Process(up.process.pid).children(recursive=True)
        for times in (1, 2):
            part(up, "api").kill()
            up.wait_for("  page was killed", times)
            with patient() as client:
                assert client.get(address(up)).is_success
        part(up, "api").kill()
        up.wait_for("Error: page was killed")
        up.process.wait(DEADLINE_S)
        assert "not started again after 3 ends within 60 s" in up.lines[-1]
    assert up.process.returncode == 2
    assert psutil.wait_procs(family, timeout=DEADLINE_S)[1] == []


def test_what_does_not_start_is_said_and_not_tried_again(home: Path) -> None:
    said = FleetCommands().run(home, "up", fails=True, LINGUABUS_NODE_CHECK_EVERY="never")
    assert said.startswith("Error: node ended: Error: ")
    assert "started again" not in said


def test_a_port_that_is_taken_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        said = FleetCommands().run(tmp_path / "home", "up", "--port", str(taken.getsockname()[1]), fails=True)
    assert "Address already in use; another one: linguabus up --port 0" in said
    assert not (tmp_path / "home" / "fleet").exists()


@pytest.mark.parametrize("option", ["broker-port", "http-port", "host-port"])
def test_a_port_of_the_fleet_that_is_taken_is_told_before_a_model_is_fetched(option: str, tmp_path: Path) -> None:
    home, commands = tmp_path / "home", FleetCommands()
    with socket.create_server((HOST, 0)) as taken:
        number = taken.getsockname()[1]
        others = [
            word
            for name, port in zip(("broker-port", "http-port", "host-port"), free_ports(3), strict=True)
            for word in (f"--{name}", str(number if name == option else port))
        ]
        commands.run(home, "init", "--listen", HOST, *others)
        said = commands.run(home, "up", "--port", "0", fails=True)
    assert f"port {number}: Address already in use: end what has it" in said
    assert f"'linguabus init --update --{option} PORT'" in said
    assert not (home / "models").exists()


def test_it_has_a_broker_of_its_own(tmp_path: Path) -> None:
    said = FleetCommands().run(tmp_path / "home", "--broker", "mqtt://127.0.0.1", "up", fails=True)
    assert "leave --broker" in said
    assert not (tmp_path / "home").exists()
