"""Run a conversion tool as a process of its own: its memory comes back, its output stays out of ours."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from broker.child_process import ChildProcess, our_environment
from orchestrator.model.errors import BrokenModel, ConversionFailed, MissingDependency, UnsupportedModel
from orchestrator.model.room import disk_full, tells_of_full_disk

_log = logging.getLogger(__name__)

_OUR_ERRORS = f"{BrokenModel.__module__}."
_OTHER_ERRORS = ("Error", "Exception", "Interrupt", "Exit")
_MOST_TOLD = 500


def run_module(module: str, arguments: list[str], what: str, on_line: Callable[[str], None], scratch: Path) -> None:
    """Run ``python -m module arguments``; each line it prints goes to ``on_line``. It ends with this process.

    What it writes beside its results, as libraries do in caches and temporary folders, goes to the folder ``scratch``.

    Raises:
        ConversionFailed: it ended with an error; the message carries its last telling line.
        MissingDependency: a package that it needs is not installed.
        BrokenModel, UnsupportedModel: it was ended by one of these.
        NoRoom: the disk is too full.
    """
    tail: list[str] = []
    command = [sys.executable, "-m", module, *arguments]
    with ChildProcess(command, output=subprocess.PIPE, environment=_environment(scratch)) as process:
        for raw in process.output:
            line = raw.decode("utf-8", "replace").rstrip()
            on_line(line)
            tail = [*tail[-39:], line]
        code = process.wait()
    if code == 0:
        return
    _log.debug("%s failed:\n%s", module, "\n".join(tail))
    reason = _telling_line(tail)
    for kind in (BrokenModel, UnsupportedModel):
        raised, _, message = reason.partition(": ")
        if raised == f"{kind.__module__}.{kind.__name__}":
            raise kind(f"{what} failed: {message}")
    if tells_of_full_disk(reason):
        raise disk_full(scratch, f"{what} failed")
    if "No module named " in reason:
        raise MissingDependency(f"{what} failed ({reason.split(': ', 1)[-1]})", "orchestrator", "convert")
    raise ConversionFailed(f"{what} failed: {reason or f'exit code {code}'}")


def _environment(scratch: Path) -> dict[str, str]:
    """The environment for a conversion: ours, less what would spoil one, which has all it needs on this disk."""
    given = our_environment()
    given.pop("PYTHONOPTIMIZE", None)  # torch reads docstrings
    own = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(scratch),
        "XDG_CACHE_HOME": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "torch"),  # else torch asks who the user is, which may be nobody
    }
    return {"HOME": str(scratch)} | given | own


def _telling_line(tail: list[str]) -> str:
    """The exception's own line of a traceback, or the last line that says anything."""
    said = [line.strip() for line in tail if line.strip()]
    for line in reversed(said):
        head = line.split(":")[0]
        is_ours = head.startswith(_OUR_ERRORS)
        if head.replace(".", "").isidentifier() and (is_ours or head.endswith(_OTHER_ERRORS)):
            return line[:_MOST_TOLD]
    return said[-1][:_MOST_TOLD] if said else ""
