"""The log of a program that knows no limit of its own: two files of which the older one is overwritten.

The program appends to a file that it was given open, so the file can't be put aside: it is copied, and emptied. What is
written between the two is lost, a line or so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path
from typing import IO

from schemas.closing import Closing

MOST_BYTES = 4 << 20
"""Of one file, and what comes until it is looked again."""
_LOOK_S = 1.0


class BoundedLog(Closing):
    """A log beside the one before it, ``NAME.1``. Looked after from ``open`` to ``close``."""

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        self.path = path
        self.older = path.with_name(f"{path.name}.1")
        self._most_bytes = MOST_BYTES if most_bytes is None else most_bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker log", daemon=True)

    def open(self) -> IO[bytes]:
        """Put an earlier start's log aside, and begin a new one; raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self.path.replace(self.older)
        file = self.path.open("ab")
        self._thread.start()
        return file

    def reopen(self) -> IO[bytes]:
        """Go on with it, for a program that is started again; raises OSError."""
        return self.path.open("ab")

    def close(self) -> None:
        """Look after it no more. Idempotent."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Put aside what is there, if it is too much."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_size <= self._most_bytes:
                return
            with contextlib.suppress(OSError):  # on a full disk it is better to lose it
                shutil.copyfile(self.path, self.older)
            os.truncate(self.path, 0)

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.look()
