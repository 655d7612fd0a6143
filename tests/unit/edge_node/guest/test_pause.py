"""The pause in a home: it lasts, ends by itself, and is believed even where it is damaged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.time_span import LONGEST_S
from edge_node.guest.pause import Pause, PauseFile


def test_a_pause_is_there_for_others_until_it_is_removed(tmp_path: Path) -> None:
    mine, others = PauseFile(tmp_path / "home"), PauseFile(tmp_path / "home")
    assert others.read() is None
    mine.write(Pause())
    assert others.read() == Pause()
    assert (tmp_path / "home/pause.json").stat().st_mode & 0o777 == 0o600
    assert mine.remove()
    assert not mine.remove()
    assert others.read() is None


def test_one_that_ends_by_itself_says_when_and_does() -> None:
    pause = Pause(until=1000.0)
    assert not pause.is_over(999.9)
    assert pause.is_over(1000.0)
    assert pause.is_over(1000.0 - LONGEST_S - 1), "it was written by a clock that went wrong"
    assert not Pause().is_over(1e12)
    assert "until" in pause.reason


def test_it_is_over_in_the_file_too(tmp_path: Path) -> None:
    file = PauseFile(tmp_path)
    file.write(Pause(time.time() - 1))
    assert file.read() is None
    file.write(Pause(time.time() + 3600))
    assert file.read()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"until": "soon"}', '{"until": []}', "{}", "[" * 4000])
def test_what_can_not_be_understood_is_a_pause(content: str, tmp_path: Path) -> None:
    (tmp_path / "pause.json").write_text(content)
    assert PauseFile(tmp_path).read() == Pause()
