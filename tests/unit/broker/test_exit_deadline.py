"""Who is asked to end does end, even who does not listen."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 20.0
BEGIN = "import os, signal, sys, time; from broker.exit_deadline import end_on_signals\n"
DEAF = BEGIN + "end_on_signals(lambda: None, patience_s=0.1); print('ready', flush=True)\nwhile True: time.sleep(1)"
COMPUTING = (
    BEGIN + "import ctypes; end_on_signals(lambda: None, patience_s=0.1); end, _ = os.pipe()\n"
    "signal.siginterrupt(signal.SIGTERM, False)  # the read goes on: no handler in Python is called\n"
    "print('ready', flush=True); ctypes.CDLL(None).read(end, ctypes.create_string_buffer(1), 1)"
)
BUSY = (
    BEGIN + "until_s, asked = [0.0], []\n"
    "end_on_signals(lambda: asked.append(until_s.append(time.monotonic() + 60)), until_s=lambda: until_s[-1],"
    " patience_s=0.1)\n"
    "print('ready', flush=True)\nwhile not asked: time.sleep(0.01)\n"
    "time.sleep(0.5); print('said good-bye')"
)


def ended(script: str, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a script that says ready, and is then sent a signal."""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_goes_on_is_ended(number: signal.Signals) -> None:
    code, _, stderr = ended(DEAF, number)
    assert (code, stderr) == (1, "Error: not at an end 0.1 s after being asked to: ended by force\n")


def test_one_that_does_not_come_back_to_python_too() -> None:
    assert ended(COMPUTING)[0] == 1


def test_what_has_to_be_done_first_may_take_its_time() -> None:
    assert ended(BUSY) == (0, "said good-bye\n", "")
