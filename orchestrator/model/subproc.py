"""Run a conversion tool as a process of its own: its memory comes back, its output stays out of ours."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.model.errors import ConversionFailed, MissingDependency

_log = logging.getLogger(__name__)


def run_module(module: str, arguments: list[str], what: str, on_line: Callable[[str], None]) -> None:
    """Run ``python -m module arguments``; each line it prints goes to ``on_line``.

    Raises:
        ConversionFailed: it ended with an error; the message carries its last telling line.
        MissingDependency: a package that it needs is not installed.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", module, *arguments]
    tail: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                line = line.rstrip()
                on_line(line)
                tail = [*tail[-39:], line]
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return
    _log.debug("%s failed:\n%s", module, "\n".join(tail))
    reason = _telling_line(tail)
    missing = reason.split("No module named ")
    if len(missing) > 1:
        package = missing[1].strip("'\". ").split(".")[0]
        raise MissingDependency(f"{what} needs the Python package {package}; install linguabus[convert]")
    raise ConversionFailed(f"{what} failed: {reason or f'exit code {process.returncode}'}")


def _telling_line(tail: list[str]) -> str:
    """The exception's own line of a traceback, or the last line that says anything."""
    said = [line.strip() for line in tail if line.strip()]
    for line in reversed(said):
        head = line.split(":")[0]
        if head.replace(".", "").isidentifier() and head.endswith(("Error", "Exception", "Interrupt", "Exit")):
            return line[:300]
    return said[-1][:300] if said else ""
