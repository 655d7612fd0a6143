"""Progress of long steps: what is done and for how long, in a line that changes on a terminal, in lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time

import click

from orchestrator.model.progress import STEPS
from orchestrator.text.figures import megabytes, progress_text
from schemas.closing import Closing

LABELS = {
    "download": "downloading",
    "read": "reading the checkpoint",
    "convert": "converting to ONNX",
    "save": "writing what was converted",
    "quantise": "rounding weights, or carrying them over",
    "split": "splitting",
    "reference": "computing what the source computes",
    "compare": "comparing every unit with the source",
    "build": "converting the first blocks in float32",
    "structure": "comparing the first blocks with the source",
    "quality": "measuring how good it is",
    "check": "checking files",
    "export": "writing the archive",
    "unpack": "reading the archive",
    "verify": "comparing split with unsplit",
    "runs": "comparing chunks and single steps with one run",
    "wire": "comparing types on the wire",
}
_UNITS = {
    "read": " written", "convert": " layers", "reference": " layers", "compare": " units", "build": " written",
    "quality": " units", "quantise": " matrices",
}  # fmt: skip
_EVERY_S = 10.0
"""Where lines stay, there is one at the beginning of a step; for one that takes longer than this, one each time that so
much has passed, and one at its end."""
_REDRAW_S = 0.5


class ProgressLines(Closing):
    """A `Progress` function: call it with (step, done, total), from any thread. Closing ends the last step.

    Seconds go on by themselves while a step says nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step = ""
        self._done = self._total = 0
        self._begun_s = self._told_s = 0.0
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._clock.start()

    def close(self) -> None:
        """End the last step."""
        self._over.set()
        self._clock.join()
        self._end_step()

    def __call__(self, step: str, done: int, total: int) -> None:
        with self._lock:
            begins = step != self._step
            if begins:
                self._end_step()
                self._step = step
                self._begun_s = self._told_s = time.monotonic()
            self._done, self._total = done, total
            if begins and _is_terminal():
                self._write(ends=False)
            elif begins:
                click.echo(f"{self._label} ...", err=True)

    def _watch(self) -> None:
        """Show the seconds that pass although nobody calls."""
        every_s = _REDRAW_S if _is_terminal() else _EVERY_S
        while not self._over.wait(_REDRAW_S):
            with self._lock:
                now_s = time.monotonic()
                if self._step and now_s >= self._told_s + every_s:
                    self._told_s = now_s
                    self._write(ends=False)

    def _end_step(self) -> None:
        if self._step and (_is_terminal() or time.monotonic() >= self._begun_s + _EVERY_S):
            self._write(ends=True)
        self._step = ""

    def _write(self, *, ends: bool) -> None:
        if _is_terminal():
            click.echo(f"\r\x1b[K{self._line()}", err=True, nl=ends)
        else:
            click.echo(self._line(), err=True)

    @property
    def _label(self) -> str:
        return LABELS.get(self._step, self._step)

    def _line(self) -> str:
        took_s = time.monotonic() - self._begun_s
        count = _count(self._step, self._done, self._total)
        return f"{self._label}: {count}{took_s:.0f} s"


def _count(step: str, done: int, total: int) -> str:
    if not done and not total:
        return ""
    if STEPS.get(step) == "bytes":
        count = progress_text(done, total) if total else megabytes(done)
    else:
        count = f"{done} of {total}" if total else str(done)
    return f"{count}{_UNITS.get(step, '')}, "


def _is_terminal() -> bool:
    return sys.stderr.isatty()
