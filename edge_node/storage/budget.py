"""How much of a disk a node may take: what its owner says, or half of what is free, as it is now."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from edge_node.storage.blob_files import blob_files

_SHARE = 0.5
LEFT_FREE_BYTES = 1_000_000_000
LEFT_FREE_SHARE = 0.05
"""So much of the disk, or less on a small one, is to stay free: a full one stops everything else on the device."""


def _usage(directory: Path) -> tuple[int, int]:
    """The disk's size, and what is free on it."""
    found = shutil.disk_usage(directory)
    return found.total, found.free


class StorageBudget:
    """Room for the blobs of a directory. Others fill the disk, too: what was free at the start may not be any more."""

    def __init__(
        self, directory: Path, most_bytes: int | None, *, usage: Callable[[Path], tuple[int, int]] = _usage
    ) -> None:
        """``most_bytes``: what the owner allows; None: what is stored already and half of what is free."""
        self._directory, self._usage = directory, usage
        self._share = _SHARE if most_bytes is None else 1.0
        if most_bytes is None:
            most_bytes = self._room_bytes(sum(path.stat().st_size for path in blob_files(directory)))
        self._most_bytes = most_bytes

    def _room_bytes(self, stored_bytes: int) -> int:
        return stored_bytes + int(self._share * self._usage(self._directory)[1])

    def limit_bytes(self, stored_bytes: int) -> int:
        """What may be stored, where so much is stored now."""
        try:
            return min(self._most_bytes, self._room_bytes(stored_bytes))
        except OSError:  # somebody has removed the directory, which comes back with the next blob
            return self._most_bytes

    def excess_bytes(self, stored_bytes: int) -> int:
        """How much should be given back, of what nobody needs."""
        try:
            total_bytes, free_bytes = self._usage(self._directory)
        except OSError:
            return 0
        left_bytes = min(LEFT_FREE_BYTES, int(LEFT_FREE_SHARE * total_bytes))
        return max(stored_bytes - self._most_bytes, left_bytes - free_bytes, 0)
