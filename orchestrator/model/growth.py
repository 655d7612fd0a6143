"""The progress of a program that writes files and reports nothing: how much it has written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from broker.repeating import repeating

_EVERY_S = 0.5


@contextlib.contextmanager
def watch_growth(folder: Path, tell: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, and once at its end, ``tell`` how many bytes the files in a folder have.

    ``tell`` is called from another thread. The folder need not be there yet.
    """
    with repeating(lambda: tell(_bytes_in(folder)), every_s=_EVERY_S, name="growth"):
        yield
    tell(_bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it is being moved
                size += Path(parent, name).lstat().st_size
    return size
