"""Pages of tables that rows were looked up in: they stay in memory until somebody lets go of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_node.runtime.process_heap import let_go_of_file_pages

NEAR_PLANNED = 0.95
"""At this share of what was planned there is room for the rows of one more run."""
LEAST_SHARE = 0.02
"""Letting go takes milliseconds: not for less than this share of what was planned."""


class TablePages:
    """Lets go of the pages of a folder's files when the process comes near the memory that was planned for it."""

    def __init__(self, folder: Path, resident_bytes: Callable[[], int]) -> None:
        """Keep the folder. ``resident_bytes`` reads what the process has in memory."""
        self._folder = folder
        self._resident_bytes = resident_bytes
        self._kept_bytes = 0
        """What was resident without them."""

    def check(self, planned_bytes: int) -> None:
        """Let go of them if it is time; never where nothing was planned (0)."""
        if not planned_bytes:
            return
        resident_bytes = self._resident_bytes()
        self._kept_bytes = min(self._kept_bytes, resident_bytes)
        least_bytes = max(NEAR_PLANNED * planned_bytes, self._kept_bytes + LEAST_SHARE * planned_bytes)
        if resident_bytes > least_bytes:
            let_go_of_file_pages(self._folder)
            self._kept_bytes = self._resident_bytes()
