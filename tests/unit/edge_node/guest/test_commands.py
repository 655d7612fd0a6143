"""What the owner types on the device, where no node runs or none can be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_node.cli import node
from edge_node.guest.commands import COMMANDS, describe_state
from edge_node.guest.pause import PauseFile
from edge_node.guest.state import NodeState
from edge_node.storage.home_lock import only_node


def run(*words: str) -> Result:
    return CliRunner().invoke(node, words)


def test_a_pause_is_for_a_node_that_does_not_run_too(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    paused = run("--home", home, "pause")
    assert (paused.exit_code, paused.stdout) == (0, "the node: paused by its owner; it is not running now\n")
    told = run("status", "--home", home)
    assert (told.exit_code, told.stdout) == (3, "the node is not running: paused by its owner\n")
    known = json.loads(run("status", "--home", home, "--json").stdout)
    assert (known["state"], known["why"], known["tokens"]) == ("not running", "paused by its owner", None)
    assert "it may work again" in run("resume", "--home", home).stdout
    assert PauseFile(Path(home)).read() is None
    assert run("status", "--home", home).stdout == "the node is not running\n"


def test_without_a_socket_the_file_is_enough_and_that_is_said(tmp_path: Path) -> None:
    with only_node(tmp_path):
        said = run("pause", "--for", "2h", "--home", str(tmp_path)).stdout
    assert said.startswith("the node: paused by its owner until ")
    assert "within a second (it can't be asked here: no socket in its home)" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("pause", "--for", "soon"), "30s, 15m, 2h or 1d"),
        (("pause", "--home", "/dev/null/home"), "can't be used"),
        (("leave", "--home", "/dev/null"), "can't be used"),
        (("nap",), "No such command"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], line: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert line in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: str(one.name))
def test_help_has_an_example(command: object) -> None:
    assert "Example: linguabus-node " in run(str(getattr(command, "name", "")), "--help").stdout


def test_a_damaged_credential_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "credential.json").write_text("{")
    done = run("leave", "--home", str(tmp_path))
    assert done.exit_code == 2
    assert "linguabus revoke NAME" in done.stderr
    assert (tmp_path / "credential.json").exists()


def test_all_that_is_known_is_told_in_a_few_lines() -> None:
    state = NodeState(
        node="phone", state="serving", runs="blocks 0-15 of tiny", pid=7, uptime_s=7300.0, tokens=41_213,
        rss_bytes=141 * 10**6, limit_bytes=190 * 10**6, bytes_in=212_400_000, bytes_out=1_900_000,
        battery_percent=80.0, charging=False,
    )  # fmt: skip
    assert describe_state(state).splitlines() == [
        "phone is serving blocks 0-15 of tiny",
        "up for 2 h, 41,213 tokens served",
        "memory 141 of 190 MB",
        "messages 212.4 MB received, 1.9 MB sent",
        "battery 80 %, not on a charger",
    ]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (NodeState(node="a", state="no broker", no_broker_s=12.2), "no broker for 12 s"),
        (NodeState(node="a", state="idle"), "idle"),
        (NodeState(node="a", state="resting", why="hot", runs="embed of t"), "resting: hot (still has embed of t)"),
        (NodeState(node="a", state="leaving", why="stopped", no_broker_s=3), "leaving: stopped; no broker for 3 s"),
    ],
)  # fmt: skip
def test_the_state_is_a_line(state: NodeState, line: str) -> None:
    assert state.line == line
