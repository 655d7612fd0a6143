"""Room on a disk, asked for before gigabytes are written, and told of where it was not enough."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.model.errors import NoRoom
from orchestrator.text.figures import size_text

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHORT_WRITE = re.compile(r"\b\d+ requested and \d+ written")
"""What numpy says of a full disk, without an errno."""


def require_room(folder: Path, size_bytes: int, what: str) -> None:
    """Check that the disk of ``folder`` has room; raises `NoRoom`."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes:
        raise NoRoom(
            f"{what}: it takes {size_text(size_bytes)}, and the disk of {folder} has {size_text(free_bytes)} free;"
            " make room there, or take another disk"
        )


def tells_of_full_disk(reason: str) -> bool:
    """Does an error's text say that a disk is full?"""
    return any(os.strerror(number) in reason for number in _FULL) or bool(_SHORT_WRITE.search(reason))


def disk_full(folder: Path, what: str) -> NoRoom:
    """The error of a write that found the disk of ``folder`` full."""
    return NoRoom(f"{what}: the disk of {folder} is full; make room there, or give another folder with --home")


@contextlib.contextmanager
def told_when_full(folder: Path, what: str) -> Iterator[None]:
    """Raise `NoRoom` with the folder's name where the block finds its disk full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL and not tells_of_full_disk(str(error)):
            raise
        raise disk_full(folder, what) from error
