"""A child process that ends with the process that started it, however that one ended."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

# A shell between the two waits at a pipe, fd 0, that the kernel closes when the process that started it is gone; then
# it ends the child, which may take 5 s. (Linux's PR_SET_PDEATHSIG would fire as soon as the starting *thread* ends, and
# exists on Linux alone.) The child's output goes to fd 2; fd 1 says its process id.
_TETHER = """
exec 3<&0
"$@" </dev/null >&2 3<&- &
child=$!
echo $child
exec >/dev/null 2>&1
(read -r _ <&3; kill $child; for second in 1 2 3 4 5; do sleep 1; done; kill -9 $child) &
watcher=$!
exec 3<&-
wait $child
code=$?
kill $watcher
exit $code
"""
_SIGNALLED = 128
"""A shell's exit code for a child that a signal ended, less the signal's number."""


def how_ended(code: int, log: Path) -> str:
    """How a program with this exit code has ended, for people: that it was killed, or the last that its log says."""
    if code == -signal.SIGKILL:  # what it said last has nothing to do with that
        return f"was killed, as a system does that is short of memory; its log: {log}"
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return f"ended: {lines[-1] if lines else 'it said nothing'}"


def our_environment() -> dict[str, str]:
    """The environment of this process, with the packages that it runs importable by another Python."""
    paths = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class ChildProcess:
    """A program that runs, with its output in a file or a pipe of the caller's. A context manager that kills it."""

    def __init__(
        self, command: Sequence[str], *, output: IO[bytes] | int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the program, with nothing on stdin and both outputs in `output`; it gets no Ctrl-C from the terminal.

        Raises:
            OSError: the system starts no more processes.
        """
        self._shell = subprocess.Popen(
            [shutil.which("sh") or "/bin/sh", "-c", _TETHER, "tether", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        assert self._shell.stdout is not None
        said = self._shell.stdout.readline()
        if not said:
            self.wait()
            raise OSError(errno.EAGAIN, f"{command[0]} was not started")
        self.pid = int(said)
        """The program's own, not the shell's."""

    @property
    def output(self) -> IO[bytes]:
        """The program's output, where a pipe was asked for."""
        assert self._shell.stderr is not None
        return self._shell.stderr

    @property
    def running(self) -> bool:
        """True until the program has ended."""
        return self._shell.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send the program a signal, unless it has ended."""
        if self.running:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the program and return its exit code; where a signal ended it, minus the signal's number.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._shell.wait(timeout_s)
        if code < 0:  # somebody ended the shell: its group has no other leader, but the program
            with suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)
        for pipe in (self._shell.stdin, self._shell.stdout, self._shell.stderr):
            if pipe is not None:
                pipe.close()
        return _SIGNALLED - code if code > _SIGNALLED else code

    def end(self, patience_s: float, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask the program to end, kill it after `patience_s`, and return its exit code. Idempotent."""
        self.send(how)
        try:
            return self.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(0.0, signal.SIGKILL)
