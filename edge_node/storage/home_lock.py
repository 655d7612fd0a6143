"""One node for each home: it has one name, and a second node by that name would throw the first one out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_node.errors import HomeInUse

_FILE = "node.lock"
_PID_BYTES = 20


def holder(home: Path) -> int | None:
    """The process of the node that holds a home; None where none does, or that can't be known."""
    try:
        with (home / _FILE).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = file.read(_PID_BYTES)
                return int(pid) if pid.isdigit() else None
    except OSError:
        pass
    return None


@contextmanager
def only_node(home: Path) -> Iterator[None]:
    """Hold a home; the system lets go of it when this process ends, however it does.

    Raises:
        HomeInUse: a node runs on it.
        OSError: it can't be written.
    """
    with (home / _FILE).open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read(_PID_BYTES)
            raise HomeInUse(str(home), pid.decode() if pid.isdigit() else "") from None
        except OSError:  # this file system knows no locks: the owner has to know
            pass
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        yield
