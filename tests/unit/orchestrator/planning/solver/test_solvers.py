"""Finding and running MILP solvers, reading their answers, doing without them, leaving nothing behind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.planning.errors import PlanningError
from orchestrator.planning.explain.explain import explain
from orchestrator.planning.explain.render import as_text
from orchestrator.planning.problem import Objective
from orchestrator.planning.solution import Solution, Status
from orchestrator.planning.solver import glpsol, milp, pyomo_solver
from orchestrator.planning.solver.runform import Plan, RunForm, Share
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.standby.plan_standby import grow_greedily, plan_standby
from orchestrator.planning.standby.question import question
from tests.support.planning import random_problem
from tests.support.repository import ROOT

ANSWER = """c a comment
s mip 2 2 {status} 12.5
i 1 3
j 1 4
j 2 0.5
e o f
"""
NAMES = "p mip min 2 2 2\nn j 1 x1\nn j 2 x7\n"
LOG = """+    10: mip =     not found yet >=              -inf        (1; 0)
+   120: >>>>>   1.250000000e+01 >=   9.000000000e+00  28.0% (12; 3)
+   999: mip =   1.250000000e+01 >=   1.100000000e+01  12.0% (90; 40)
TIME LIMIT EXCEEDED; SEARCH TERMINATED
"""


@pytest.fixture
def solver() -> glpsol.Glpsol:
    found = glpsol.find()
    assert found is not None, "glpsol is missing: install the dev environment with `make test`"
    return found


def test_an_optimal_answer() -> None:
    raw = glpsol.parse(ANSWER.format(status="o"), NAMES, "")
    assert raw == glpsol.RawAnswer("optimal", {"x1": 4.0, "x7": 0.5}, 12.5)


def test_an_answer_cut_short_carries_the_bound_of_the_log() -> None:
    raw = glpsol.parse(ANSWER.format(status="f"), NAMES, LOG)
    assert raw.status == "feasible"
    assert raw.values == {"x1": 4.0, "x7": 0.5}
    assert raw.bound == 11.0


def test_no_point_found_in_time_and_no_point_at_all() -> None:
    assert glpsol.parse(ANSWER.format(status="u"), NAMES, LOG) == glpsol.RawAnswer("unknown", None, 11.0)
    empty = glpsol.parse(ANSWER.format(status="n"), NAMES, "")
    assert empty == glpsol.RawAnswer("infeasible", None, -math.inf)


def test_a_broken_model_is_one_line(solver: glpsol.Glpsol, tmp_path: Path) -> None:
    broken = tmp_path / "broken.lp"
    broken.write_text("this is not a model")
    with pytest.raises(PlanningError, match="glpsol failed") as refused:
        glpsol.run(solver, broken, 1.0)
    assert "\n" not in str(refused.value)


def test_a_solver_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "model.lp"
    model.write_text("")
    with pytest.raises(PlanningError, match="glpsol failed"):
        glpsol.run(glpsol.Glpsol(tmp_path / "absent", None), model, 1.0)


REAL = 'exec {real} "$@"'
FOR_THE_PROBE_ONLY = "case $2 in *probe.lp) " + REAL + ";; esac\n"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Solvers are looked for anew, and after the test once more."""
    found = (glpsol.find, pyomo_solver._glpk_works, pyomo_solver._highs_works)
    monkeypatch.setattr(pyomo_solver, "_failed", {})
    for function in found:
        function.cache_clear()
    yield
    for function in found:
        function.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A glpsol of this script comes first on PATH."""
    solver = folder / "glpsol"
    solver.write_text(f"#!/bin/sh\n{script}\n" if script else "")
    solver.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(glpsol, "_GRACE_S", 0.1)
    glpsol.find.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'cannot open shared object file: libglpk.so.40' >&2; exit 127", "libglpk.so.40"),
        ("kill -SEGV $$", "exit code -11"),
        ("exit 0", "it wrote no answer"),
        ("echo nonsense e o f | tee $4 > $6", "it can't solve a programme of two variables"),
        ("echo 's mip' > $4; cp $4 $6", "its answer is cut short"),
        ("", "Exec format error"),
        ("sleep 600 & wait", "it did not end within 1 s"),
        ("yes", "it did not end within 1 s"),
        ("read line; " + REAL, None),
        (FOR_THE_PROBE_ONLY + "exit 3", "exit code 3"),
        (FOR_THE_PROBE_ONLY + "sleep 600 & wait", "it did not end within 1 s"),
    ],
)
def test_a_glpsol_that_does_not_work_is_replaced_and_said_once(
    solver: glpsol.Glpsol, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    script: str, why: str | None,
) -> None:  # fmt: skip
    problem = replace(random_problem(3), time_limit_s=0.5)
    expected = solve(problem, prove=False)
    wrapper = f"LD_LIBRARY_PATH={solver.library_dir or ''} {solver.path}"
    install(monkeypatch, tmp_path, script.replace("exec {real}", f"exec env {wrapper}"))
    answers = [solve(problem), solve(problem)]
    for answer in answers:
        assert isinstance(answer, Solution)
        assert isinstance(expected, Solution)
        assert answer.stages == expected.stages
        assert answer.status is Status.OPTIMAL
        assert answer.solver == ("highs" if why else "glpk")
        assert (why or "") in answer.solver_note
        assert bool(answer.solver_note) == bool(why)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * bool(why)
    assert not [process for process in psutil.Process().children(recursive=True) if process.name() in ("sleep", "yes")]


@pytest.mark.usefixtures("fresh")
def test_with_neither_the_dynamic_programme_and_greedy_growth_plan_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "exit 1")
    monkeypatch.setattr(pyomo_solver, "_highs_answer", lambda model, time_limit_s: 1 / 0)
    problem = replace(random_problem(19), objective=Objective.THROUGHPUT)
    answer = solve(problem)
    assert isinstance(answer, Solution)
    assert (answer.solver, answer.status, answer.solver_gap) == ("dp", Status.OPTIMAL, 0.0)
    assert "glpsol failed" in answer.solver_note
    assert "HiGHS failed" in answer.solver_note
    assert plan_standby(problem, answer.stages).solver == "greedy"
    assert answer.solver_note in as_text(explain(problem, answer))


@pytest.mark.usefixtures("fresh")
def test_without_a_folder_for_temporary_files_there_is_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    answer = solve(random_problem(3))
    assert isinstance(answer, Solution)
    assert answer.solver == "highs"
    assert "set TMPDIR" in answer.solver_note


def test_solving_leaves_no_file_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = solve(random_problem(3))
    assert isinstance(answer, Solution)
    assert answer.solver == "glpk"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("objective", list(Objective))
def test_highs_confirms_the_same_plans(monkeypatch: pytest.MonkeyPatch, objective: Objective) -> None:
    problems = [replace(random_problem(seed), objective=objective) for seed in range(6)]
    alone = [solve(problem, prove=False) for problem in problems]
    monkeypatch.setattr(pyomo_solver, "solver_name", lambda: "highs")
    confirmed = [solve(problem) for problem in problems]
    for mine, theirs in zip(alone, confirmed, strict=True):
        if isinstance(mine, Solution):
            assert isinstance(theirs, Solution)
            assert (theirs.solver, theirs.stages) == ("highs", mine.stages)


def test_highs_plans_the_same_standby_value(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(random_problem(19), objective=Objective.THROUGHPUT)
    answer = solve(problem, prove=False)
    assert isinstance(answer, Solution)
    assert len(answer.nodes) > 1
    with_glpk = plan_standby(problem, answer.stages)
    monkeypatch.setattr(pyomo_solver, "solver_name", lambda: "highs")
    assert plan_standby(problem, answer.stages).value_bytes == pytest.approx(with_glpk.value_bytes)


def test_without_any_solver_the_dynamic_programme_and_greedy_standby_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyomo_solver, "solver_name", lambda: None)
    problem = replace(random_problem(19), objective=Objective.THROUGHPUT)
    answer = solve(problem)
    assert isinstance(answer, Solution)
    assert (answer.solver, answer.status) == ("dp", Status.OPTIMAL)
    asked, planned = question(problem, answer.stages), plan_standby(problem, answer.stages)
    assert planned.solver == "greedy"
    assert planned.value_bytes == asked.value(grow_greedily(asked))


def test_a_solver_out_of_time_leaves_its_gap_and_the_proven_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(3)
    expected = solve(problem, prove=False)
    assert isinstance(expected, Solution)

    def out_of_time(form: RunForm, limit_s: float = math.inf, expected_s: float = 1.0) -> milp.Proof:
        del form, limit_s
        return milp.Proof("unknown", None, expected_s * 0.75, "glpk")

    monkeypatch.setattr(milp, "cheapest", out_of_time)
    answer = solve(problem)
    assert isinstance(answer, Solution)
    assert answer.stages == expected.stages
    assert (answer.status, answer.solver, answer.gap) == (Status.OPTIMAL, "dp", 0.0)
    assert answer.solver_gap == pytest.approx(0.25, rel=1e-6)


def test_a_refuted_claim_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = random_problem(3)

    def refutes(form: RunForm, limit_s: float = math.inf, expected_s: float = 1.0) -> milp.Proof:
        del form, limit_s
        return milp.Proof("optimal", Plan(expected_s * 0.9, (Share(),)), expected_s * 0.9, "glpk")

    monkeypatch.setattr(milp, "cheapest", refutes)
    answer = solve(problem)
    assert isinstance(answer, Solution)
    assert answer.status is Status.FEASIBLE_GAP
    assert answer.gap == pytest.approx(0.1)


def test_planning_without_proof_does_not_import_pyomo() -> None:
    """It takes half a second, and Termux has no need of it."""
    script = (
        "import json, sys\n"
        "from tests.support.planning import random_problem\n"
        "from orchestrator.planning.solver.solve import solve\n"
        "solve(random_problem(3), prove=False)\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ('pyomo', 'torch', 'onnx')]))\n"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
