"""A lock between processes: one file, held while a with block runs; and folders that only one process works in."""

from __future__ import annotations

import contextlib
import os
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
    while True:
        with path.open("a+b") as file:
            _lock(file, wait=True)
            if _is_at(path, file):
                yield  # closing the file lets go
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Is this file still there, or was it removed by whoever held it before?"""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


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

    Everybody who makes folders there names the same lock file, which is held for a moment. Who leaves with an error
    takes along the lock file and the folders that were not there before, unless others have put something in.
    """
    made = [path for path in (lock, parent, *parent.parents) if not path.exists()]
    try:
        with contextlib.ExitStack() as stack:
            with exclusive(lock):
                parent.mkdir(parents=True, exist_ok=True)
                _clear(parent)
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                stack.enter_context(exclusive(folder / "lock"))
            yield folder
    except BaseException:
        if lock in made:
            _remove_empty(lock, made)
        raise


def clear_left(parent: Path, lock: Path) -> None:
    """Remove what processes that died left in folders of `owned_folder`."""
    if parent.is_dir():
        with exclusive(lock):
            _clear(parent)


def _clear(parent: Path) -> None:
    for left in parent.iterdir():
        if not is_held(left / "lock"):
            shutil.rmtree(left, ignore_errors=True)


def _remove_empty(lock: Path, made: list[Path]) -> None:
    """Remove a lock file that nobody needs any more, and those folders of ``made`` that are empty, inner ones first."""
    folders = [path for path in made if path != lock]
    with contextlib.suppress(OSError):  # one has files in it; or, on Windows, an open one can't be removed
        with exclusive(lock):
            inner = [folder for folder in folders if lock.parent in folder.parents]
            for folder in inner:
                folder.rmdir()
            if list(lock.parent.iterdir()) == [lock]:
                lock.unlink()
        for folder in folders[len(inner) :]:
            folder.rmdir()
