"""The progress of a program that writes files and reports nothing: how much it has written."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_EVERY_S = 0.5


@contextlib.contextmanager
def watch_growth(folder: Path, tell: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, and once at its end, ``tell`` how many bytes the files in a folder have.

    ``tell`` is called from another thread. The folder need not be there yet.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            tell(_bytes_in(folder))

    watcher = threading.Thread(target=watch, name="growth", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    tell(_bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it is being moved
                size += Path(parent, name).lstat().st_size
    return size
