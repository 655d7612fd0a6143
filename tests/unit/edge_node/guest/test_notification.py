"""The notification on a phone: what it shows, when it is called, and that it keeps nobody waiting."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from edge_node.guest import notification
from edge_node.guest.notification import Notification
from edge_node.guest.state import NodeState
from tests.support.polling import DEADLINE_S

SERVING = NodeState(node="phone", state="serving", runs="blocks 0-15 of tiny", tokens=1200)


class Phone:
    """Termux's commands, recorded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._calls = folder / "bin", folder / "calls"
        self._folder.mkdir()
        monkeypatch.setenv("PATH", f"{self._folder}:/usr/bin:/bin")

    def behaves(self, body: str) -> None:
        for name in (notification.SHOW, notification.REMOVE):
            path = self._folder / name
            path.write_text(f'#!/bin/sh\nfor one in {name} "$@"; do printf "%s|" "$one"; done >>{self._calls}\n')
            with path.open("a") as file:
                file.write(f"echo >>{self._calls}\n{body}\n")
            path.chmod(0o755)

    def calls(self) -> list[list[str]]:
        if not self._calls.exists():
            return []
        return [line.split("|") for line in self._calls.read_text().split("|\n")[:-1]]

    def wait_for(self, holds: Callable[[list[list[str]]], bool]) -> list[list[str]]:
        end_s = time.monotonic() + DEADLINE_S
        while not holds(self.calls()):
            assert time.monotonic() < end_s, self.calls()
            time.sleep(0.01)
        return self.calls()


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    return Phone(tmp_path, monkeypatch)


def test_it_shows_the_state_and_a_button_for_the_right_home(phone: Phone, tmp_path: Path) -> None:
    phone.behaves("exit 0")
    shown, home = Notification("phone", tmp_path / "a home"), tmp_path / "a home"
    shown.show(SERVING, is_paused=False, now_s=0.0)
    ((command, *options),) = phone.wait_for(lambda calls: len(calls) == 1)
    told = dict(pairwise(options))
    assert command == notification.SHOW
    assert told["--id"] == "linguabus-phone"
    assert "--ongoing" in options
    assert told["--content"] == "serving blocks 0-15 of tiny, 1,200 tokens served"
    assert told["--button1"] == "Pause"
    assert shlex.split(told["--button1-action"])[-3:] == ["pause", "--home", str(home)]
    paused = replace(SERVING, state="resting", runs="", why="paused by its owner")
    shown.show(paused, is_paused=True, now_s=1.0)
    assert "Resume" in phone.wait_for(lambda calls: len(calls) == 2)[1]
    shown.close()
    assert phone.calls()[-1] == [notification.REMOVE, "linguabus-phone"]


def test_it_is_renewed_when_the_state_changes_and_else_once_a_minute(phone: Phone, tmp_path: Path) -> None:
    phone.behaves("exit 0")
    shown = Notification("phone", tmp_path, refresh_s=60.0)
    shown.show(SERVING, is_paused=False, now_s=0.0)
    phone.wait_for(lambda calls: len(calls) == 1)
    for now_s in (1.0, 59.9):
        shown.show(replace(SERVING, tokens=9000), is_paused=False, now_s=now_s)
    shown.show(replace(SERVING, tokens=9001), is_paused=False, now_s=60.0)
    calls = phone.wait_for(lambda calls: len(calls) == 2)
    assert "9,001" in " ".join(calls[1])
    shown.close()


@pytest.mark.parametrize("body", ["exec sleep 60", "exit 1"], ids=["hangs", "fails"])
def test_one_that_hangs_or_fails_is_given_up(
    body: str, phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(notification, "_REMOVE_TIMEOUT_S", 0.3)
    phone.behaves(body)
    shown = Notification("phone", tmp_path, refresh_s=0.0)
    thread = shown._thread
    assert thread
    end_s = time.monotonic() + DEADLINE_S
    while thread.is_alive():
        assert time.monotonic() < end_s
        shown.show(SERVING, is_paused=False, now_s=time.monotonic())
        thread.join(0.02)
    assert len(phone.calls()) == 3
    shown.close()


def test_without_the_command_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = Notification("phone", tmp_path)
    shown.show(SERVING, is_paused=False, now_s=0.0)
    shown.close()
    assert shown._thread is None
