"""Progress of long steps: a bar on a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

import click

LABELS = {
    "download": "downloading",
    "read": "reading the checkpoint",
    "convert": "converting to ONNX",
    "split": "splitting",
    "check": "checking files",
    "verify": "comparing split with unsplit",
}


class ProgressLines:
    """A `Progress` function: call it with (step, done, total). Leaving the context ends the last bar."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: Any = None  # click's ProgressBar, which click does not export

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._end_bar()
            self._step = step
            if not (total and sys.stderr.isatty()):
                click.echo(f"{LABELS.get(step, step)} ...", err=True)
        if total and sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(length=total, label=LABELS.get(step, step), file=sys.stderr)
                self._bar.__enter__()
            self._bar.update(done - self._bar.pos)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
