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
    (tmp_path / "home" / "blobs").mkdir(parents=True)
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
    (tmp_path / "blobs").mkdir()
    with only_node(tmp_path):
        said = run("pause", "--for", "2h", "--home", str(tmp_path)).stdout
    assert said.startswith("the node: paused by its owner until ")
    assert "it sees that as soon as it can (it does not answer now)" in said


def test_a_home_without_a_node_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    """What 'linguabus --home' takes is the folder around a node's."""
    for words in (("pause",), ("resume",), ("leave", "--yes")):
        refused = run(*words, "--home", str(tmp_path / "nowhere"))
        assert (refused.exit_code, f"there is no node in {tmp_path / 'nowhere'}" in refused.stderr) == (2, True)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "credential.json").write_text("{}")
    assert f"there is one in {tmp_path / 'node'}" in run("pause", "--home", str(tmp_path)).stderr


def test_nobody_leaves_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for typed in ("n\n", ""):
        aborted = CliRunner().invoke(node, ("leave", "--home", str(tmp_path)), input=typed)
        assert aborted.exit_code == 1
        assert "belonged to no fleet" not in aborted.stdout
    assert "belonged to no fleet" in CliRunner().invoke(node, ("leave", "--home", str(tmp_path)), input="y\n").stdout


def test_a_node_that_does_not_answer_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with only_node(tmp_path):
        told = run("status", "--home", str(tmp_path))
    assert (told.exit_code, told.stdout) == (4, "the node is not answering\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("pause", "--for", "soon"), "30s, 15m, 2h or 1d"),
        (("pause", "--home", "/dev/null/home"), "there is no node in"),
        (("leave", "--home", "/dev/null"), "there is no node in"),
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
        (NodeState(node="a", state="no broker", no_broker_s=12.2), "without a broker for 12 s"),
        (NodeState(node="a", state="idle"), "idle"),
        (NodeState(node="a", state="resting", why="hot", runs="embed of t"), "resting: hot (still has embed of t)"),
        (NodeState(node="a", state="leaving", why="it", no_broker_s=3), "leaving: it; without a broker for 3 s"),
    ],
)  # fmt: skip
def test_the_state_is_a_line(state: NodeState, line: str) -> None:
    assert state.line == line
