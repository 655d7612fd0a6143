"""Folders that one process works in, and the lock file: what is left of them when it is interrupted."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from orchestrator.model.lock import exclusive, owned_folder


def interrupt(home: Path, *others: str) -> None:
    """Interrupt work in a folder of its own, while somebody else makes files."""
    with contextlib.suppress(KeyboardInterrupt), owned_folder(home / "partial", "add-", home / "lock") as folder:
        (folder / "weights").write_text("x")
        for other in others:
            (home / other).parent.mkdir(parents=True, exist_ok=True)
            (home / other).write_text("x")
        raise KeyboardInterrupt


def test_interrupted_work_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    interrupt(tmp_path / "new" / "home")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    interrupt(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["models/tiny", "partial/add-other/blob"])
def test_what_others_use_stays(tmp_path: Path, other: str) -> None:
    interrupt(tmp_path / "home", other)
    assert (tmp_path / "home" / other).exists()
    assert (tmp_path / "home" / "lock").exists()


def test_a_lock_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    interrupt(tmp_path)
    assert (tmp_path / "lock").exists()


def test_who_waited_for_a_lock_that_was_removed_locks_the_new_one(tmp_path: Path) -> None:
    """Two that hold different files of one name would both be alone."""
    path, waits, held = tmp_path / "lock", threading.Event(), []

    def wait() -> None:
        waits.set()
        with exclusive(path):
            held.append(path.exists())

    waiter = threading.Thread(target=wait)
    with exclusive(path):
        waiter.start()
        waits.wait()
        waiter.join(0.1)  # it is at the lock, probably
        path.unlink()
    waiter.join()
    assert held == [True]
