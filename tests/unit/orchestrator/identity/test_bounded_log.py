"""A log that does not grow for ever, while a program writes to it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from broker.child_process import ChildProcess
from orchestrator.identity.bounded_log import BoundedLog
from tests.support.fleet_world import fleet_world
from tests.support.polling import DEADLINE_S

WRITER = "import sys\nfor line in range(1000): print('line', line, flush=True)\nprint('again', flush=True)"
MOST_BYTES = 2000


def test_it_is_emptied_while_a_program_writes_and_the_newest_lines_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.identity.bounded_log._LOOK_S", DEADLINE_S)
    path = tmp_path / "a.log"
    path.write_text("of an earlier start\n")
    with BoundedLog(path, MOST_BYTES) as log:
        with log.open() as file:
            assert log.older.read_text() == "of an earlier start\n"
            with ChildProcess([sys.executable, "-c", WRITER], output=file) as writer:
                writer.wait(DEADLINE_S)
            before = path.stat().st_size
            log.look()
            assert path.stat().st_size == 0
            assert log.older.stat().st_size == before > MOST_BYTES
            with ChildProcess(["echo", "error: it is here"], output=file) as writer:
                writer.wait(DEADLINE_S)
        log.look()
        assert path.read_text() == "error: it is here\n"
        assert log.older.read_text().endswith("line 999\nagain\n")


def test_the_log_of_a_fleets_broker_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.identity.bounded_log.MOST_BYTES", MOST_BYTES)
    with fleet_world(tmp_path, {"reader": "client"}) as world:
        log = world.fleet.broker_folder / "broker.log"
        end_s = time.monotonic() + DEADLINE_S
        older = log.with_name("broker.log.1")
        while not older.exists() or "reader-test" not in older.read_text():  # it is there before all is copied
            assert time.monotonic() < end_s
            with world.bus("reader"):
                pass
        while b"later" not in log.read_bytes():
            assert time.monotonic() < end_s
            with world.bus("reader", "later"):
                pass
        assert b"\0" not in log.read_bytes()  # it is written from its beginning, not where it ended
