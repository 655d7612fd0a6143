"""A flag goes before the environment, that before the configuration file, that before the default, in both programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cli
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

EVERYTHING = """\
broker: mqtt://ann:my@secret@127.0.0.1:9
home: ../home
serve:
  min-nodes: 2
  advertise: [http://a:1, "http://b:2"]
  with-broker: yes
node:
  memory-limit-mb: 800
  name: kitchen
simulate:
  balance: off
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LINGUABUS_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config/linguabus/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EVERYTHING)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[object, str, str]]:
    """Value, source and place of each option."""
    assert cli.run([*arguments, "config", "show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["settings"]
    return {name: (one["value"], one["source"], one["place"]) for name, one in found.items()}


def on_node(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_node", *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip


def test_each_value_and_who_said_so(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINGUABUS_API_PORT", "99")
    found = shown(capsys, "--insecure")
    assert found["broker"] == ("mqtt://ann:***@127.0.0.1:9", "file", f"{file}, line 1")
    assert found["home"] == (str(file.parent / "../home"), "file", f"{file}, line 2")
    assert found["insecure"] == ("true", "flag", "--insecure")
    assert found["serve.min-nodes"] == ("2", "file", f"{file}, line 4")
    assert found["serve.advertise"] == (["http://a:1", "http://b:2"], "file", f"{file}, line 5")
    assert found["serve.with-broker"] == ("true", "file", f"{file}, line 6")
    assert found["simulate.balance"] == ("off", "file", f"{file}, line 11")
    assert found["api.port"] == ("99", "environment", "LINGUABUS_API_PORT")
    assert found["api.host"] == ("127.0.0.1", "default", "")
    assert "serve.broker" not in found


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("broker: mqtt://127.0.0.1:1\nask: {broker: 'mqtt://127.0.0.1:2', max-tokens: 3}\n")

    def asked(*arguments: str) -> str:
        assert cli.run([*arguments, "ask", "Hello"]) == 2
        return capsys.readouterr().err.split(": ")[1]

    assert asked() == "no MQTT broker at mqtt://127.0.0.1:2"  # its own section, before what all commands have
    monkeypatch.setenv("LINGUABUS_BROKER", "mqtt://127.0.0.1:3")
    assert asked() == "no MQTT broker at mqtt://127.0.0.1:3"
    monkeypatch.setenv("LINGUABUS_ASK_BROKER", "mqtt://127.0.0.1:4")
    assert asked() == "no MQTT broker at mqtt://127.0.0.1:4"
    assert asked("--broker", "mqtt://127.0.0.1:5") == "no MQTT broker at mqtt://127.0.0.1:5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("serve:\n  min_nodes: 2", "line 2: serve.min_nodes: there is no such option: is it min-nodes?"),
        ("serv: {}", "line 1: serv: there is no such option: is it serve?"),
        (
            "plan: {apply: {objectiv: latency}}",
            "line 1: plan.apply.objectiv: there is no such option: is it objective?",
        ),
        ("version: true", "line 1: version: write options as 'name: value'"),
        ("serve: {min-nodes: many}", "line 1: serve.min-nodes: 'many' is not a whole number from 1 to"),
        ("serve: {min-nodes: 0}", "line 1: serve.min-nodes: '0' is not a whole number from 1 to"),
        ("serve: {with-broker: maybe}", "line 1: serve.with-broker: 'maybe' is not a valid boolean"),
        ("ask: {temperature: .nan}", "line 1: ask.temperature: '.nan' is not a number from 0 to 100"),
        ("serve: {wire: fp8}", "line 1: serve.wire: 'fp8' is not one of"),
        ("broker: http://x", "line 1: broker: broker address 'http://x': does not begin with mqtt://"),
        ("up: {name: a/b}", "line 1: up.name: use letters, digits"),
        ("home: [a]", "line 1: home: write one value"),
        ("home:", "line 1: home: write one value"),
        ("ask: {stop: {a: b}}", "line 1: ask.stop: write one value, or a list of them"),
        ("serve: 3", "line 1: serve: write options as 'name: value', one on a line"),
        ("home: /a\nhome: /b", "line 2: home: it is there already, further up"),
        ("[1, 2]: 3", "line 1: a key is one word"),
        ("a: b\n  c: d: e", "line 2: this is not YAML"),
        ("serve:\n  pipelines: 0", "line 2: pipelines: write auto, or a number from 1 to 100"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(
    file: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    assert cli.run(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {file}, {said}")


def test_what_is_wrong_in_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINGUABUS_SERVE_MIN_NODES", "many")
    assert cli.run(["serve"]) == 2
    assert capsys.readouterr().err.startswith("Error: Invalid value for LINGUABUS_SERVE_MIN_NODES: 'many' is not")


def test_a_file_that_is_named_has_to_be_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--config", f"{file}.old", "version"]) == 2
    assert capsys.readouterr().err == f"Error: {file}.old: it can't be read: No such file or directory\n"
    file.write_bytes(b"\xff\xfe")
    assert cli.run(["version"]) == 2
    assert "it is not text in UTF-8" in capsys.readouterr().err
    file.write_text("# nothing yet\n")
    assert cli.run(["version"]) == 0
    file.unlink()
    assert cli.run(["config", "show", "serve"]) == 0
    assert f"file {file}: not there" in capsys.readouterr().out
    assert cli.run(["config", "show", "serv"]) == 2
    assert "there is no command 'serv'" in capsys.readouterr().err


def test_a_node_reads_its_section_and_what_goes_for_both(file: Path) -> None:
    def settings(*arguments: str, **environment: str) -> dict[str, dict[str, str]]:
        done = on_node(*arguments, "config", "show", "--json", **environment)
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, str]] = json.loads(done.stdout)["settings"]
        return found

    found = settings()
    assert found["memory-limit-mb"] == {"value": "800", "source": "file", "place": f"{file}, line 8"}
    assert found["home"] == {"value": str(file.parent / "../home/node"), "source": "file", "place": f"{file}, line 2"}
    assert found["broker"]["place"] == f"{file}, line 1"
    found = settings("--memory-limit-mb", "900", LINGUABUS_HOME="/there", LINGUABUS_NODE_THREADS="2")
    assert (found["memory-limit-mb"]["value"], found["memory-limit-mb"]["source"]) == ("900", "flag")
    assert found["home"] == {"value": "/there/node", "source": "environment", "place": "LINGUABUS_HOME"}
    assert found["threads"]["source"] == "environment"
    file.write_text("broker: mqtt://127.0.0.1:1\nnode: {broker: 'mqtt://127.0.0.1:2'}\nserve: {no-such: 1}\n")
    assert settings()["broker"]["value"] == "mqtt://127.0.0.1:2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: kitchen", "line 1: name belongs under node:"),
        ("node:\n  memory-limit: 3", "line 2: node.memory-limit: there is no such option: is it memory-limit-mb?"),
        ("node:\n  name: a/b", "line 2: node.name: "),
        ("node: {broker: there}", "line 1: node.broker: broker address 'there': does not begin with mqtt://"),
        ("node: {emulate-speed: 7}", "line 1: emulate-speed: "),
    ],
)
def test_what_is_wrong_with_a_nodes_section(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    done = on_node()
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {file}, {said}")


def test_the_command_node_leaves_the_file_to_the_node(file: Path, tmp_path: Path) -> None:
    """What stands at the top is no more than the file's there, too."""
    other = tmp_path / "other.yaml"
    other.write_text("home: top\nnode: {home: own}\n")
    command = [sys.executable, "-m", "orchestrator.cli", "--config", str(other), "node", "config", "show", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    assert json.loads(done.stdout)["settings"]["home"]["value"] == str(tmp_path / "own")


def test_the_reference_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "configuration_reference.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.stdout == (ROOT / "docs" / "configuration.md").read_text("utf-8"), "run make docs"


def test_the_references_example_is_right(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    file.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert shown(capsys)["ask.stop"][0] == ["END", "STOP"]
    assert on_node("config", "show").returncode == 0
