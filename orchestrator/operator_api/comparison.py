"""The comparison of a plan in force with another: what that would give and cost (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.planning.cost import check
from orchestrator.planning.gain import NOTHING_BETTER, gain
from orchestrator.planning.moves.kv_migration import Migration
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Solution
from orchestrator.planning.solver.solve import evaluate
from schemas.messages import (
    ComparedFigures,
    ComparedStage,
    ExpectedMove,
    NoPlanExplanation,
    PlanComparison,
    PlanExplanation,
)
from schemas.units_text import describe_units


def comparison(
    problem: Problem,
    running: DeployedPlan,
    explanation: PlanExplanation | NoPlanExplanation,
    migration_to: Callable[[DeployedPlan], Migration | None],
) -> PlanComparison:
    """Compare both plans with the devices as they are now: the gain, what a move takes, and what is to be done."""
    stages = running.solution.stages
    wrong = _wrong(problem, stages)
    now = None if wrong else evaluate(problem, stages)
    said = PlanComparison(
        pipeline=running.pipeline,
        epoch=str(running.epoch),
        objective=problem.objective.value,
        now=_figures(now) if now else None,
        best=None,
        gain=None,
        move=None,
        moves=False,
        reason="",
    )
    if isinstance(explanation, NoPlanExplanation):
        return replace(said, reason=f"no other plan is possible: {explanation.reason}")
    found = tuple(Stage(stage.node, stage.start, stage.stop) for stage in explanation.stages)
    best = evaluate(problem, found)
    said = replace(said, best=_figures(best))
    if found == stages:
        return replace(said, gain=0.0, reason=NOTHING_BETTER)
    said = replace(said, move=_move(migration_to(replace(running, solution=best))))
    if now is None:
        return replace(said, moves=True, reason=f"the plan in force should not go on: {wrong}")
    saved = gain(now.objective_value, best.objective_value)
    reason = f"{saved:.1%} less time by {problem.objective.value}" if saved > 0 else "nothing is gained by a move"
    return replace(said, gain=saved, moves=saved > 0, reason=reason)


def _wrong(problem: Problem, stages: tuple[Stage, ...]) -> str:
    missing = [stage.node for stage in stages if stage.node not in problem.device_by_name]
    if missing:
        return f"{', '.join(dict.fromkeys(missing))} should have no layers"
    return next(iter(check(problem, stages)), "")


def _figures(answer: Solution) -> ComparedFigures:
    predicted = answer.predicted
    last = predicted.stages[-1].stop
    return ComparedFigures(
        decode_ms=predicted.decode_s * 1e3,
        tokens_per_s=predicted.tokens_per_s,
        tokens_per_s_many=predicted.tokens_per_s_many,
        stages=tuple(
            ComparedStage(
                node=stage.node,
                start=stage.start,
                stop=stage.stop,
                units=describe_units(stage.start, stage.stop, last),
                decode_ms=stage.decode_s * 1e3,
            )
            for stage in predicted.stages
        ),
    )


def _move(migration: Migration | None) -> ExpectedMove | None:
    """The expected move; None where open requests can't be moved live."""
    if migration is None:
        return None
    return ExpectedMove(
        mode=migration.mode,
        copy_bytes=migration.copy_bytes,
        copy_ms=migration.copy_s * 1e3,
        lost_ms=migration.lost_s * 1e3,
    )
