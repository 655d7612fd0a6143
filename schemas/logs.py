"""Where the programs write their logs, and how much."""

from __future__ import annotations

import logging


def log_to_stderr(verbose: int) -> None:
    """Warnings; with ``verbose`` 1 information, with 2 everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
