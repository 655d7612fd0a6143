"""The command line in homes of its own, run as users do, with all that it says kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT


class Running:
    """A command that goes on, and what it says."""

    def __init__(self, command: list[str], said: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, stdin=subprocess.DEVNULL
        )
        self.lines: list[str] = []
        self._said = said
        self._over = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._said.append(line)
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def wait_for(self, start: str, times: int = 1) -> None:
        """Return once it has said so many lines that begin with ``start``."""

        def is_said() -> bool:
            return sum(line.startswith(start) for line in self.lines) >= times

        with self._news:
            self._news.wait_for(lambda: self._over or is_said(), DEADLINE_S)
            if not is_said():
                pytest.fail("".join(self.lines))

    def end(self) -> None:
        """Stop it, and take in the last that it says."""
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self.process.stdout
        self.process.stdout.close()


@dataclass
class FleetCommands:
    """Runs commands; ``options`` stand in front of each."""

    options: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list)
    """All output of all commands."""

    def run(self, home: Path, *arguments: str, fails: bool = False, **environment: str) -> str:
        """What a command prints; where it fails, on stderr."""
        done = subprocess.run(
            self._command(home, arguments), capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE_S, check=False,
            stdin=subprocess.DEVNULL, env=_with(environment),
        )  # fmt: skip
        self.said += [done.stdout, done.stderr]
        assert bool(done.returncode) == fails, done.stderr
        return done.stderr if fails else done.stdout

    @contextmanager
    def running(self, home: Path, *arguments: str, until: str) -> Iterator[Running]:
        """A command that goes on, once it has printed a line that begins with ``until``."""
        home.mkdir(parents=True, exist_ok=True)
        running = Running(self._command(home, arguments), self.said)
        try:
            running.wait_for(until)
            yield running
        finally:
            running.end()

    def _command(self, home: Path, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "orchestrator.cli", "--home", str(home), *self.options, *arguments]


def _with(environment: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **environment}
