"""What processes connect to and write, taken down by strace: also what native code does behind Python's back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

_CALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink"
_ADDRESS = re.compile(
    r'htons\((?P<port>\d+)\), (?:sin_addr=inet_addr\(|sin6_flowinfo=.*?inet_pton\(AF_INET6, )"(?P<host>[^"]+)"'
)
_SENDING = re.compile(r"^\d+ +(connect|send)")
_WRITING = re.compile(r"^\d+ +(?:creat|mkdir|rename|link|symlink|open\w*\(.*\bO_(?:CREAT|WRONLY|RDWR)\b)")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass
class Recorder:
    """Runs commands with a home, a folder for temporary files and a working directory that are new and empty."""

    folder: Path
    _traces: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert shutil.which("strace"), "strace is missing: install the dev environment with `make test`"
        for folder in (self.home, self.temporary, self.working):
            folder.mkdir(parents=True)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def working(self) -> Path:
        return self.folder / "working"

    def start(self, command: Sequence[str], log: Path | None = None, **environment: str) -> Recorded:
        """Start a command; ``log`` gets what it says on stderr, which is otherwise in its pipe."""
        trace = self.folder / f"{len(self._traces)}.strace"
        self._traces.append(trace)
        # --seccomp-bpf: only the calls named stop a process, else it would run at half its speed.
        strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={_CALLS}", "-o", str(trace)]
        with (log or Path(os.devnull)).open("wb") as file:
            process = subprocess.Popen(
                [*strace, *command], cwd=self.working, env=self.environment() | environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=file if log else subprocess.PIPE, text=True, errors="replace",
            )  # fmt: skip
        return Recorded(process)

    def run(self, *command: str, timeout_s: float = 120.0, **environment: str) -> tuple[int, str, str]:
        """Run a command to its end: its exit code and both outputs."""
        process = self.start(command, **environment).process
        out, errors = process.communicate(timeout=timeout_s)
        return process.returncode, out, errors

    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LINGUABUS_"))}
        new = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        return {**ours, **new, "PYTHONDONTWRITEBYTECODE": "1"}

    def addresses(self) -> set[tuple[str, int]]:
        """Where anything was sent or connected to, name servers included."""
        found = (_ADDRESS.finditer(line) for line in self._lines() if _SENDING.match(line))
        return {(match["host"], int(match["port"])) for matches in found for match in matches}

    def written(self) -> set[Path]:
        """What was opened for writing, made or renamed, whether it worked or not."""
        lines = (line for line in self._lines() if _WRITING.match(line))
        return {self.working / match.group(1) for line in lines for match in _PATH.finditer(line)}

    def _lines(self) -> list[str]:
        return [line for trace in self._traces for line in trace.read_text(errors="replace").splitlines()]


@dataclass
class Recorded:
    """A recorded process. strace's own exit code is that of the command, once all that it started have ended."""

    process: subprocess.Popen[str]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the command and wait for all; what does not listen is killed."""
        for command in psutil.Process(self.process.pid).children():
            command.send_signal(how)
        try:
            self.process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            for left in psutil.Process(self.process.pid).children(recursive=True):
                left.kill()
            self.process.communicate()
        return self.process.returncode
