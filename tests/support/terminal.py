"""Programs that somebody starts in a terminal, and ends by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOK_S = 0.05
_STOP_S = 60.0


class Terminal:
    """A program that goes on, and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        """All that it has said."""
        return self._log.read_text(errors="replace")

    def wait_for(self, begins: str, deadline_s: float) -> str:
        """A line that begins like that, once it is there; AssertionError when it ends without, or takes too long."""
        end_s = time.monotonic() + deadline_s
        while True:
            lines = [line.strip() for line in self.said.splitlines()]
            if found := next((line for line in lines if line.startswith(begins)), None):
                return found
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end_s, self.said
            time.sleep(_LOOK_S)


@contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Iterator[Terminal]:
    """A program in a session of its own, started in a folder."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield Terminal(process, log)
    finally:
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
