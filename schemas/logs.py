"""The set-up of logging: lines on stderr, as many as were asked for."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from schemas.shown_text import escaped


class LineFormatter(logging.Formatter):
    """One line for each record, whatever others have put into it; a traceback follows, indented.

    Names files as they lie in the home folder, which need not be said in each line.
    """

    def __init__(self, home: Path | None) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._prefix = f"{home}{os.sep}" if home else ""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (its name in logging)
        return escaped(self._shortened(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        lines = self._shortened(super().formatException(ei)).split("\n")
        return "\n".join(f"  {escaped(line)}" for line in lines)

    def _shortened(self, text: str) -> str:
        return text.replace(self._prefix, "") if self._prefix else text


def log_to_stderr(verbose: int, home: Path | None) -> None:
    """Warnings; with ``verbose`` 1 information, with 2 everything. ``home``: the folder of the program's own files."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(home))
    logging.basicConfig(level=level, handlers=[handler])
