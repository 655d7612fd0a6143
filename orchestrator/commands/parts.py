"""Programs of linguabus that one command starts on this machine, with their logs, and ends together."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.child_process import ChildProcess
from orchestrator.errors import OrchestratorError

START_TIMEOUT_S = 120.0
POLL_S = 0.1
PAGE = re.compile(r"in a browser: (\S+)")
"""In what 'linguabus api' says once it answers."""


class PartFailed(OrchestratorError):
    """A program ended, or did not get ready."""


@dataclass
class Part:
    """One program."""

    name: str
    process: ChildProcess
    log: Path

    def check(self) -> None:
        """Raise PartFailed if it ended."""
        if self.process.running:
            return
        code = self.process.wait()
        if code == -signal.SIGKILL:  # what it said last has nothing to do with that
            raise PartFailed(f"{self.name} was killed, as a system does that is short of memory; its log: {self.log}")
        lines = self.log.read_text(errors="replace").strip().splitlines()
        raise PartFailed(f"{self.name} ended: {lines[-1] if lines else 'it said nothing'}")


class Parts:
    """Some programs. They end, too, when the process that started them is killed."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where their logs go."""
        self._folder = folder
        self.started: list[Part] = []

    def start(self, name: str, arguments: Sequence[str]) -> Part:
        """Start Python with these arguments; what a program of this name said before is forgotten."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as file:
            process = ChildProcess([sys.executable, *arguments], output=file)
        part = Part(name, process, log)
        self.started.append(part)
        return part

    def check(self) -> None:
        """Raise PartFailed if any of them ended."""
        for part in self.started:
            part.check()

    def wait_for(self, part: Part, said: re.Pattern[str], check: Callable[[], None]) -> re.Match[str]:
        """Return what a program says, once it does; ``check`` is called until then, and ends the wait by an error.

        Raises:
            PartFailed: it takes too long.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not (found := said.search(part.log.read_text(errors="replace"))):
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
