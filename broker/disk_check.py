"""A look at a folder that a program keeps its files in: can it be written, and is there room?"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from schemas.finding import Finding, failed, ok, warning
from schemas.system_limits import describe


def check_disk(folder: Path, *, least_bytes: int, low_bytes: int, low_remedy: str, failed_remedy: str) -> Finding:
    """What there is to say of a folder, which is made where it is not there.

    Args:
        least_bytes, low_bytes: with less room than that it does not work; with less than that there is a warning.
        low_remedy, failed_remedy: what to do where there is little room, and where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        # Of a file without a name, so the folder's is given.
        return failed("disk", f"{folder}: {describe(OSError(error.errno, error.strerror))}", failed_remedy)
    said = f"{free_bytes / 1e6:,.0f} MB free in {folder}"
    if free_bytes < least_bytes:
        return failed("disk", said, "make room there, or give another folder with --home")
    if free_bytes < low_bytes:
        return warning("disk", said, low_remedy)
    return ok("disk", said)
