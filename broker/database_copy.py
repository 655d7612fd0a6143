"""A copy of a database as it was, before a newer version of linguabus changes it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def keep_copy(path: Path, version: int) -> Path:
    """Copy a database, whole or not at all, to a file beside it that only its owner can read, and return where that is.

    An older linguabus goes on with it in the database's place. Whoever calls this keeps others from writing meanwhile.

    Args:
        version: of the database's schema.

    Raises:
        sqlite3.Error: it can't be read, or there is no room.
        OSError: the copy can't be put in its place.
    """
    copy = path.with_name(f"{path.name}.schema-{version}")
    partial = copy.with_name(f"{copy.name}.new")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)
    return copy
