"""Commands of the system that tell something, and may hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

_MOST_BYTES = 1 << 16


class NoReading(Exception):
    """The command tells nothing that can be used."""


def output_of(command: str, *arguments: str, timeout_s: float) -> bytes:
    """What a command prints.

    Raises:
        NoReading: there is no such command, it failed, or did not end in time. It and its children are killed then:
            a script's child would keep the pipe open.
    """
    try:
        process = subprocess.Popen(
            [command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise NoReading(f"{command}: {(error.strerror or str(error)).lower()}") from error
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise NoReading(f"no answer within {timeout_s:.0f} s") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()
    if process.returncode:
        raise NoReading(f"it ended with {process.returncode}")
    return bytes(output[:_MOST_BYTES])
