"""Child processes say how they ended, and never outlive the process that started them."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from broker.child_process import ChildProcess
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

NEVER_ENDS = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(600)"]


def test_what_it_says_on_both_outputs_and_how_it_ends() -> None:
    script = "import sys; print('out', flush=True); print('err', file=sys.stderr); assert not sys.stdin.read(); exit(3)"
    with ChildProcess([sys.executable, "-c", script], output=subprocess.PIPE) as process:
        assert process.output.read() == b"out\nerr\n"
        assert process.wait() == 3
        assert not process.running
        process.send(signal.SIGTERM)


def test_a_program_that_is_not_there_says_so() -> None:
    with ChildProcess(["/no/such/program"], output=subprocess.PIPE) as process:
        assert b"/no/such/program" in process.output.read()
        assert process.wait() == 127


def test_it_is_asked_to_end_and_made_to() -> None:
    with ChildProcess(NEVER_ENDS, output=subprocess.PIPE) as process:
        assert process.output.readline() == b"on\n"
        assert process.end(20.0) == -signal.SIGTERM
        assert process.end(20.0) == -signal.SIGTERM
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + NEVER_ENDS[2]
    with ChildProcess([sys.executable, "-c", stubborn], output=subprocess.PIPE) as process:
        assert process.output.readline() == b"on\n"
        assert process.end(0.05) == -signal.SIGKILL


def test_leaving_the_context_ends_it() -> None:
    with pytest.raises(ZeroDivisionError), ChildProcess(NEVER_ENDS, output=subprocess.DEVNULL) as process:
        raise ZeroDivisionError
    assert not psutil.pid_exists(process.pid)


def test_it_ends_with_the_shell_between() -> None:
    with ChildProcess(NEVER_ENDS, output=subprocess.PIPE) as process:
        assert process.output.readline() == b"on\n"
        program = psutil.Process(process.pid)
        shell = program.parent()
        assert shell is not None
        shell.kill()
        assert process.wait() == -signal.SIGKILL
        program.wait(20)


def test_it_ends_with_the_process_that_started_it_and_not_with_the_thread() -> None:
    script = f"""
import subprocess, sys, threading
from broker.child_process import ChildProcess
started = []
thread = threading.Thread(target=lambda: started.append(ChildProcess({NEVER_ENDS!r}, output=subprocess.DEVNULL)))
thread.start()
thread.join()
print(started[0].pid, started[0].running, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, running = parent.stdout.readline().split()
        family = psutil.Process(parent.pid).children(recursive=True)
        assert running == "True"
        assert int(pid) in {process.pid for process in family}
        parent.kill()
    _, alive = psutil.wait_procs(family, timeout=DEADLINE_S)
    assert alive == []
