"""The explanation of a plan: what is predicted, what else was possible, and what each device adds or costs.

`explain` returns messages (for operators and --json), `render.as_text` the same for people.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planning.explain.baselines import Baseline, best_single, even_split, fastest_first, quickest_single
from orchestrator.planning.explain.reasons import baseline_worth_s, devices_said, why, worth_s
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible, Solution, Standby
from orchestrator.text.figures import as_ms
from schemas.messages import (
    ComparedPlan,
    ExplainedFigures,
    ExplainedNode,
    ExplainedStage,
    ExplainedStandby,
    NoPlanExplanation,
    PlanExplanation,
)
from schemas.units_text import units_text


def explain(
    problem: Problem, answer: Solution | Infeasible, standby: Sequence[Standby] = ()
) -> PlanExplanation | NoPlanExplanation:
    """Explain the planner's answer."""
    return no_plan(problem, answer) if isinstance(answer, Infeasible) else explain_plan(problem, answer, standby)


def no_plan(problem: Problem, answer: Infeasible) -> NoPlanExplanation:
    """Explain why there is no plan."""
    return NoPlanExplanation(
        objective=problem.objective.value,
        reason=answer.reason,
        missing_bytes=answer.missing_bytes,
        smallest_fix=answer.smallest_fix,
        fixes=answer.fixes,
    )


def explain_plan(problem: Problem, answer: Solution, standby: Sequence[Standby] = ()) -> PlanExplanation:
    """Explain a plan. Seconds are given as milliseconds, sizes in bytes."""
    figures = answer.predicted
    return PlanExplanation(
        objective=answer.objective.value,
        status=answer.status.value,
        solver=answer.solver,
        solver_note=answer.solver_note,
        gap=answer.gap,
        solver_gap=answer.solver_gap,
        solve_ms=as_ms(answer.solve_s),
        stages=_stages(problem, answer),
        nodes=tuple(_node(problem, answer, name, standby) for name in answer.nodes),
        predicted=ExplainedFigures(
            decode_ms=as_ms(figures.decode_s),
            tokens_per_s=round(figures.tokens_per_s, 3),
            streams=problem.streams,
            tokens_per_s_many=round(figures.tokens_per_s_many, 3),
            bottleneck_ms=as_ms(figures.bottleneck_s),
            bottleneck_node=figures.bottleneck_node,
            ttft_ms=as_ms(figures.ttft_s),
            prompt_tokens=figures.prompt_tokens,
        ),
        compared=tuple(_compared(problem, answer, baseline) for baseline in _baselines(problem)),
        devices=devices_said(problem, answer),
        why=why(problem, answer),
    )


def _stages(problem: Problem, answer: Solution) -> tuple[ExplainedStage, ...]:
    return tuple(
        ExplainedStage(
            stage=index,
            node=stage.node,
            start=stage.start,
            stop=stage.stop,
            units=units_text(problem.kinds, stage.start, stage.stop),
            decode_ms=as_ms(stage.decode_s),
            hop_ms=as_ms(stage.hop_s),
            prefill_ms=as_ms(stage.prefill_s),
            weight_bytes=stage.weight_bytes,
            kv_bytes=stage.kv_bytes,
        )
        for index, stage in enumerate(answer.predicted.stages)
    )


def _node(problem: Problem, answer: Solution, name: str, standby: Sequence[Standby]) -> ExplainedNode:
    node = answer.predicted.of_node(name)
    return ExplainedNode(
        node=name,
        units=node.units,
        load_ms=as_ms(node.load_s),
        memory_bytes=node.memory_bytes,
        memory_limit_bytes=node.memory_limit_bytes,
        stored_bytes=node.stored_bytes,
        storage_limit_bytes=node.storage_limit_bytes,
        standby=tuple(
            ExplainedStandby(
                start=one.start,
                stop=one.stop,
                warm_start=one.warm_start,
                warm_stop=one.warm_stop,
                units=units_text(problem.kinds, one.start, one.stop),
            )
            for one in standby
            if one.node == name
        ),
    )


def _baselines(problem: Problem) -> list[Baseline]:
    single = best_single(problem) or quickest_single(problem)
    return [plan for plan in (single, even_split(problem), fastest_first(problem)) if plan is not None]


def _compared(problem: Problem, answer: Solution, plan: Baseline) -> ComparedPlan:
    best_s = worth_s(problem, answer)
    return ComparedPlan(
        name=plan.name,
        nodes=tuple(dict.fromkeys(stage.node for stage in plan.stages)),
        allowed=plan.allowed,
        wrong=plan.wrong,
        decode_ms=as_ms(plan.predicted.decode_s),
        bottleneck_ms=as_ms(plan.predicted.bottleneck_s),
        tokens_per_s=round(plan.predicted.tokens_per_s, 3),
        tokens_per_s_many=round(plan.predicted.tokens_per_s_many, 3),
        times_slower=round(baseline_worth_s(problem, plan) / best_s, 3) if best_s else None,
    )
