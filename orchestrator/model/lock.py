"""A lock between processes: one file, held while a with block runs; and folders that only one process works in."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes], *, wait: bool) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes], *, wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; waits for whoever has it. A process that dies lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _lock(file, wait=True)
        yield  # closing the file lets go


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file ``path`` now; False if there is no such file."""
    if not path.exists():
        return False
    with path.open("a+b") as file:
        try:
            _lock(file, wait=False)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def owned_folder(parent: Path, prefix: str, lock: Path) -> Iterator[Path]:
    """A new folder in ``parent``, removed at the end; what processes that died left there is removed at the start.

    Everybody who makes folders there names the same lock file, which is held for a moment.
    """
    with contextlib.ExitStack() as stack:
        with exclusive(lock):
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.iterdir():
                if not is_held(left / "lock"):
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(exclusive(folder / "lock"))
        yield folder
