"""Room on a disk, asked for before gigabytes are written."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.model.errors import NoRoom
from schemas.limits import MB


def require_room(folder: Path, size_bytes: int, what: str) -> None:
    """Check that the disk of ``folder`` has room; raises `NoRoom`."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes:
        raise NoRoom(
            f"{what}: it takes {size_bytes / MB:,.0f} MB, and the disk of {folder} has {free_bytes / MB:,.0f} MB free;"
            " make room there, or take another disk"
        )
