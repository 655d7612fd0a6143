"""Solves a Pyomo model with GLPK, or with HiGHS where no glpsol is found."""

from __future__ import annotations

import functools
import importlib.util
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.solver import glpsol

MIB = 2**20


@dataclass(frozen=True)
class Answer:
    """What the solver proved: status optimal | feasible | infeasible | unknown, and a bound on the objective."""

    status: str
    bound: float
    solver: str


@functools.cache
def solver_name() -> str | None:
    """glpk, highs, or None when neither is installed (or Pyomo is not)."""
    if importlib.util.find_spec("pyomo") is None:
        return None
    if glpsol.find() is not None:
        return "glpk"
    return "highs" if importlib.util.find_spec("highspy") is not None else None


def solve_model(model: Any, time_limit_s: float) -> Answer:
    """Solve a Pyomo model in place with the installed solver; its variables then hold the best point found."""
    if solver_name() == "highs":
        return _solve_with_highs(model, time_limit_s)
    return _solve_with_glpk(model, time_limit_s)


def _solve_with_glpk(model: Any, time_limit_s: float) -> Answer:
    from pyomo.repn.plugins.lp_writer import LPWriter

    solver = glpsol.find()
    assert solver is not None, "solver_name() said glpk"
    with tempfile.TemporaryDirectory(prefix="linguabus-plan-") as folder:
        lp_file = Path(folder) / "model.lp"
        with lp_file.open("w") as stream:
            symbols = LPWriter().write(model, stream).symbol_map.bySymbol
        raw = glpsol.run(solver, lp_file, time_limit_s)
    for name, value in (raw.values or {}).items():
        if name in symbols:
            symbols[name].set_value(value, skip_validation=True)
    return Answer(raw.status, raw.bound, "glpk")


def _solve_with_highs(model: Any, time_limit_s: float) -> Answer:
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
