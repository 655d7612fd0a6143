"""The set-up of logging: lines on stderr, as many as were asked for."""

from __future__ import annotations

import logging
import os
from pathlib import Path


class HomeFormatter(logging.Formatter):
    """Names files as they lie in the home folder, which need not be said in each line."""

    def __init__(self, home: Path | None) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._prefix = f"{home}{os.sep}" if home else ""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace(self._prefix, "") if self._prefix else super().format(record)


def log_to_stderr(verbose: int, home: Path | None) -> None:
    """Warnings; with ``verbose`` 1 information, with 2 everything. ``home``: the folder of the program's own files."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setFormatter(HomeFormatter(home))
    logging.basicConfig(level=level, handlers=[handler])
