"""A control group of Linux that limits the memory of those in it, and a node in it:
``python -m tests.support.memory_group FOLDER [options of a node]``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edge_node.cli import main
from edge_node.telemetry import control_group


class MemoryGroup:
    """One group, without a limit at first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        is_old = (folder / "memory.limit_in_bytes").exists()
        self._limit = folder / ("memory.limit_in_bytes" if is_old else "memory.max")
        self._used = folder / ("memory.usage_in_bytes" if is_old else "memory.current")
        self._unlimited = "-1" if is_old else "max"

    def leave_bytes(self, left_bytes: int) -> None:
        """Set the limit so that so much is left, pages of files apart, by what those in it have by now."""
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        kinds = ("active_file", "inactive_file")
        files_bytes = sum(int(stat.get(f"total_{kind}") or stat[kind]) for kind in kinds)
        self._limit.write_text(str(int(self._used.read_text()) - files_bytes + left_bytes))

    def lift(self) -> None:
        """No limit any more."""
        self._limit.write_text(self._unlimited)


@contextmanager
def memory_group(name: str) -> Iterator[MemoryGroup]:
    """A new group beside this process's own. Skips the test where there can be none."""
    parents = [group for group in control_group._groups() if _may_limit(group)]
    if not parents or os.geteuid() != 0:
        pytest.skip("a control group that limits memory is made by root, where one is mounted")
    folder = parents[-1] / f"{name}-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield MemoryGroup(folder)
    finally:
        with suppress(OSError):
            folder.rmdir()


def _may_limit(folder: Path) -> bool:
    """May groups in this folder limit memory?"""
    gives = folder / "cgroup.subtree_control"
    return (folder / "memory.limit_in_bytes").exists() or (gives.exists() and "memory" in gives.read_text().split())


if __name__ == "__main__":
    (Path(sys.argv.pop(1)) / "cgroup.procs").write_text(str(os.getpid()))
    main()
