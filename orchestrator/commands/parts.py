"""Programs of linguabus that one command starts on this machine, with their logs, keeps running, and ends together."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from broker.child_process import ChildProcess, how_ended
from broker.restarts import GIVEN_UP, Restarts
from orchestrator.errors import OrchestratorError

START_TIMEOUT_S = 120.0
POLL_S = 0.1
PAGE = re.compile(r"in a browser: (\S+)")
"""In what 'linguabus api' says once it answers."""


class PartFailed(OrchestratorError):
    """A program ended, or did not get ready."""


class Part:
    """One program, and those that are started in its place."""

    def __init__(self, name: str, log: Path, arguments: Sequence[str], ready: re.Pattern[str] | None = None) -> None:
        """Start Python with these arguments. ``ready`` is in what it says once it has started well, if that counts.

        What a program with this log said before is forgotten.
        """
        self.name = name
        self.log = log
        self._command = [sys.executable, *arguments]
        self._ready = ready
        self._restarts = Restarts()
        self._again_s: float | None = None
        """When it is started again (monotonic clock); None unless it has ended."""
        log.unlink(missing_ok=True)
        self.process = self._started()

    def _started(self) -> ChildProcess:
        with self.log.open("ab") as file:
            return ChildProcess(self._command, output=file)

    @property
    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text("utf-8", "replace")

    def check(self) -> None:
        """Raise PartFailed if it ended."""
        if not self.process.running:
            raise PartFailed(self._how_ended())

    def tend(self, now_s: float) -> str:
        """Start it again a while after it has ended; a line for people once that is done.

        Raises:
            PartFailed: it had not started well, or has ended too often.
        """
        if self.process.running:
            return ""
        how = self._how_ended()
        if self._again_s is None:
            if self._ready and not self._ready.search(self.said):
                raise PartFailed(how)
            pause_s = self._restarts.pause_s(now_s)
            if pause_s is None:
                raise PartFailed(f"{how}; {GIVEN_UP}")
            self._again_s = now_s + pause_s
        if now_s < self._again_s:
            return ""
        self.process, self._again_s = self._started(), None
        return f"{how}; started again"

    def _how_ended(self) -> str:
        return f"{self.name} {how_ended(self.process.wait(), self.log)}"


class Parts:
    """Some programs. They end, too, when the process that started them is killed."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where their logs go."""
        self._folder = folder
        self.started: list[Part] = []

    def start(self, name: str, arguments: Sequence[str], ready: re.Pattern[str] | None = None) -> Part:
        """Start one; see `Part`."""
        part = Part(name, log_of(self._folder, name), arguments, ready)
        self.started.append(part)
        return part

    def check(self) -> None:
        """Raise PartFailed if any of them ended."""
        for part in self.started:
            part.check()

    def tend(self, now_s: float) -> Iterator[str]:
        """Start those again that have ended; what there is to be said of it. Raises as `Part.tend` does."""
        return filter(None, (part.tend(now_s) for part in self.started))

    def wait_for(self, part: Part, said: re.Pattern[str], check: Callable[[], None]) -> re.Match[str]:
        """Return what a program says, once it does; ``check`` is called until then, and ends the wait by an error.

        Raises:
            PartFailed: it takes too long.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (found := said.search(part.said)):
            check()
            if time.monotonic() > deadline_s:
                raise PartFailed(f"{part.name} is not ready after {START_TIMEOUT_S:.0f} s: see {part.log}")
            time.sleep(POLL_S)
        return found

    def end(self, patience_s: float) -> None:
        """Ask all to end, and kill those that have not after so long, all together. Idempotent."""
        ends_s = time.monotonic() + patience_s
        for part in self.started:
            part.process.send(signal.SIGTERM)
        for part in self.started:
            part.process.end(max(0.0, ends_s - time.monotonic()))


def log_of(folder: Path, name: str) -> Path:
    """Where what a program says goes to."""
    return folder / f"{name}.log"
