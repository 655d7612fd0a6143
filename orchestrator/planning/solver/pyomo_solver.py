"""Solves a Pyomo model with GLPK, or with HiGHS where there is no glpsol or a broken one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.errors import SolverFailed
from orchestrator.planning.solver import glpsol

logger = logging.getLogger(__name__)

MIB = 2**20


@dataclass(frozen=True)
class Answer:
    """What the solver proved: status optimal | feasible | infeasible | unknown, and a bound on the objective."""

    status: str
    bound: float
    solver: str


_failed: dict[str, str] = {}
"""Solvers that do not work here, and why. Each is given one chance by each process."""


@functools.cache
def _pyomo_works() -> bool:
    return importlib.util.find_spec("pyomo") is not None and _can_be_imported("pyomo.environ", "pyomo", "Pyomo")


def _can_be_imported(module: str, solver: str, its_name: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation comes up with
        _give_up(solver, f"{its_name} failed ({error})")
        return False
    return True


@functools.cache
def _glpk_works() -> bool:
    solver = glpsol.find()
    if solver is None:
        return False
    try:
        with _work_folder() as folder:
            glpsol.probe(solver, folder)
    except SolverFailed as error:
        _give_up("glpk", str(error))
        return False
    return True


@functools.cache
def _highs_works() -> bool:
    return importlib.util.find_spec("highspy") is not None and _can_be_imported("highspy", "highs", "HiGHS")


def solver_name() -> str | None:
    """glpk or highs, whichever works, or None when neither does (or Pyomo does not)."""
    if not _pyomo_works():
        return None
    if "glpk" not in _failed and _glpk_works():
        return "glpk"
    return "highs" if "highs" not in _failed and _highs_works() else None


def complaints() -> str:
    """What does not work, in a line for people; empty where all is well."""
    return "; ".join(_failed.values())


def _give_up(name: str, reason: str) -> None:
    _failed[name] = " ".join(reason.split())
    logger.warning("%s; plans are made without it until this process is started again", _failed[name])


def solve_model(model: Any, time_limit_s: float) -> Answer:
    """Solve a Pyomo model in place with a solver that works; its variables then hold the best point found.

    Raises:
        SolverFailed: no solver works, or none any more.
    """
    for name, solve in (("glpk", _solve_with_glpk), ("highs", _solve_with_highs)):
        if name == solver_name():
            try:
                return solve(model, time_limit_s)
            except SolverFailed as error:
                _give_up(name, str(error))
    raise SolverFailed(complaints() or "no MILP solver is installed")


@contextlib.contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder for glpsol's files; where there is no room for them, glpsol does not work."""
    try:
        with tempfile.TemporaryDirectory(prefix="linguabus-plan-") as folder:
            yield Path(folder)
    except OSError as error:
        raise SolverFailed(f"glpsol has no folder for its files ({error}): set TMPDIR") from error


def _solve_with_glpk(model: Any, time_limit_s: float) -> Answer:
    from pyomo.repn.plugins.lp_writer import LPWriter

    solver = glpsol.find()
    if solver is None:
        raise SolverFailed("glpsol is gone")
    with _work_folder() as folder:
        lp_file = folder / "model.lp"
        with lp_file.open("w", encoding="ascii") as stream:
            symbols = LPWriter().write(model, stream).symbol_map.bySymbol
        raw = glpsol.run(solver, lp_file, time_limit_s)
    for name, value in (raw.values or {}).items():
        if name in symbols:
            symbols[name].set_value(value, skip_validation=True)
    return Answer(raw.status, raw.bound, "glpk")


def _solve_with_highs(model: Any, time_limit_s: float) -> Answer:
    try:
        return _highs_answer(model, time_limit_s)
    except Exception as error:  # of a library below a library
        raise SolverFailed(f"HiGHS failed ({error})") from error


def _highs_answer(model: Any, time_limit_s: float) -> Answer:
    from pyomo.contrib.appsi.base import TerminationCondition
    from pyomo.contrib.appsi.solvers.highs import Highs

    solver = Highs()
    solver.config.time_limit = time_limit_s
    solver.config.load_solution = False
    solver.config.mip_gap = 0.0
    solver.highs_options = {"threads": 1, "random_seed": 0}
    result = solver.solve(model)
    found = result.best_feasible_objective is not None
    if found:
        result.solution_loader.load_vars()
    bound = -math.inf if result.best_objective_bound is None else float(result.best_objective_bound)
    if result.termination_condition == TerminationCondition.optimal:
        return Answer("optimal", bound, "highs")
    ended = (TerminationCondition.infeasible, TerminationCondition.infeasibleOrUnbounded)
    if result.termination_condition in ended:
        return Answer("infeasible", bound, "highs")
    return Answer("feasible" if found else "unknown", bound, "highs")
