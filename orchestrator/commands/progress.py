"""Progress of long steps: a bar on a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import click

from schemas.closing import Closing

LABELS = {
    "download": "downloading",
    "read": "reading the checkpoint",
    "convert": "converting to ONNX",
    "split": "splitting",
    "check": "checking files",
    "verify": "comparing split with unsplit",
}


class ProgressLines(Closing):
    """A `Progress` function: call it with (step, done, total). Leaving the context ends the last bar."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: Any = None  # click's ProgressBar, which click does not export

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self.close()
            self._step = step
            if not (total and sys.stderr.isatty()):
                click.echo(f"{LABELS.get(step, step)} ...", err=True)
        if total and sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(length=total, label=LABELS.get(step, step), file=sys.stderr)
                self._bar.__enter__()
            self._bar.update(done - self._bar.pos)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
