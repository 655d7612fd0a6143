"""Full disks: which folder is on them, and sizes with enough digits."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.model import room
from orchestrator.model.errors import NoRoom
from orchestrator.model.room import require_room, told_when_full
from orchestrator.model.subproc import run_module


def test_sizes_that_differ_look_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 940_000)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)
    require_room(tmp_path, 940_000, "x can't be written")
    with pytest.raises(NoRoom, match=rf"it takes 1\.2 MB, and the disk of {tmp_path} has 940 kB free"):
        require_room(tmp_path, 1_200_000, "x can't be written")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    what = "tiny can't be added"
    with pytest.raises(NoRoom, match=f"{what}: the disk of {tmp_path} is full"), told_when_full(tmp_path, what):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), told_when_full(tmp_path, "tiny can't be added"):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_full_disk_is_named_where_numpy_leaves_its_number_out(tmp_path: Path) -> None:
    with (
        pytest.raises(NoRoom, match=f"the disk of {tmp_path} is full"),
        told_when_full(tmp_path, "tiny can't be added"),
    ):
        np.zeros(9999).tofile("/dev/full")


@pytest.mark.parametrize(
    "step",
    [
        "import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
        "raise OSError('20480 requested and 2016 written')",
    ],
)
def test_a_full_disk_is_named_by_a_conversion_step_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "a_step.py").write_text(step)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NoRoom, match=f"converting tiny failed: the disk of {tmp_path} is full"):
        run_module("a_step", [], "converting tiny", lambda _: None, tmp_path)
