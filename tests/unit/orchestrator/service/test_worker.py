"""The worker's thread does not hold up the end of the process."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator.effects import PreviewPlan, SolvePlan
from orchestrator.events import JobFailed, PlanSolved
from orchestrator.service import worker as module
from orchestrator.service.worker import Worker


def test_a_job_that_goes_on_is_left_behind_and_the_next_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    begun, over, ended = threading.Event(), threading.Event(), threading.Event()

    def solve(problem: Any) -> Any:
        begun.set()
        over.wait()
        raise RuntimeError(problem)

    worker = Worker(None, wake=ended.set, solve=solve)  # type: ignore[arg-type]
    worker.submit(SolvePlan(1, None))  # type: ignore[arg-type]
    worker.submit(SolvePlan(2, None))  # type: ignore[arg-type]
    assert begun.wait(20)
    worker.close()
    over.set()
    assert ended.wait(20)
    worker._jobs._thread.join(20)
    assert [worker.results.get(), worker.results.empty()] == [
        JobFailed(1, "internal error, see the orchestrator's log: None"), True
    ]  # fmt: skip


def test_plans_do_not_wait_for_what_operators_ask() -> None:
    begun, over, told = threading.Event(), threading.Event(), threading.Event()

    def solve(problem: Any) -> Any:
        if problem == "asked":
            begun.set()
            over.wait()
            raise RuntimeError(problem)
        return f"{problem} solved"

    worker = Worker(None, wake=told.set, solve=solve)  # type: ignore[arg-type]
    worker.submit(PreviewPlan(-1, "asked"))  # type: ignore[arg-type]
    assert begun.wait(20)
    worker.submit(SolvePlan(1, "needed"))  # type: ignore[arg-type]
    assert told.wait(20)
    assert worker.results.get(timeout=20) == PlanSolved(1, "needed solved")  # type: ignore[arg-type]
    over.set()
    assert isinstance(worker.results.get(timeout=20), JobFailed)
    worker.close()
