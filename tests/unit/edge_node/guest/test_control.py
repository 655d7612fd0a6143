"""The socket in a node's home: who may ask, what, and what becomes of who asks badly."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.guest import control
from edge_node.guest.control import ControlServer, NoWayToNode, ask
from edge_node.guest.presence import state_of
from edge_node.guest.state import NodeState
from edge_node.storage.home_lock import only_node

STATE = NodeState(node="phone", state="idle", pid=7, tokens=12)


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture(params=["short", "x" * 120], ids=["short", "long"])
def home(request: pytest.FixtureRequest, tmp_path: Path, asked: list[str]) -> Iterator[Path]:
    """Of a node that answers."""
    folder = tmp_path / request.param
    folder.mkdir()

    def answer(what: str) -> NodeState:
        asked.append(what)
        return STATE

    with ControlServer(folder, answer):
        yield folder


def test_the_owner_is_answered_and_nobody_else_can_ask(home: Path, asked: list[str]) -> None:
    assert ask(home, "status") == STATE
    assert state_of(home, "", "look") == STATE
    assert asked == ["status", "look"]
    assert stat.S_IMODE((home / "node.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "said",
    [b"\n", b"{\n", b"[]\n", b'{"ask": "reboot"}\n', b'{"ask": ["status"]}\n', b"[" * 200 + b"\n", b"x" * 5000, b""],
)
def test_what_is_no_question_is_not_answered_and_harms_nobody(said: bytes, home: Path, asked: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as other, control._address(home) as address:
        other.settimeout(5)
        other.connect(address)
        other.sendall(said)
        other.shutdown(socket.SHUT_WR)
        with pytest.raises((ValueError, ConnectionResetError)):
            control._line(other, 100)
    assert asked == []
    assert ask(home, "status") == STATE


def test_who_says_nothing_keeps_others_waiting_for_a_moment_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent, control._address(home) as address:
        silent.connect(address)
        assert ask(home, "status") == STATE


def test_a_socket_that_a_killed_node_left_is_replaced_and_gone_at_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "node.sock"))
    with pytest.raises(NoWayToNode):
        ask(tmp_path, "status")
    with ControlServer(tmp_path, lambda _: STATE):
        assert ask(tmp_path, "status") == STATE
    assert not (tmp_path / "node.sock").exists()


def test_without_a_socket_the_lock_tells_whether_a_node_runs(tmp_path: Path) -> None:
    assert state_of(tmp_path, "phone").state == "not running"
    with only_node(tmp_path):
        found = state_of(tmp_path, "phone")
        assert found.state == "unknown"
        assert found.pid
    assert state_of(tmp_path, "phone").state == "not running"
