"""A plan in force as operators see it (pure)."""

from __future__ import annotations

from typing import Final

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.planning.unit_run import cache_bytes
from schemas.messages import KvDtype, PlanOnItsWay, PlanView, SegmentReady, StageView, UnitsOnNode
from schemas.units_text import describe_units

KV_DTYPES: Final[dict[str, KvDtype]] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}


def plan_view(plan: DeployedPlan, ready: dict[int, SegmentReady]) -> PlanView:
    """The view of a plan that ``linguabus plan`` shows and the history keeps."""
    predicted = plan.solution.predicted
    unit_count = plan.model.manifest.num_units
    stages = []
    for index, stage in enumerate(predicted.stages):
        of_node = predicted.of_node(stage.node)
        report = ready.get(index)
        stages.append(
            StageView(
                stage=index,
                node=stage.node,
                start=stage.start,
                stop=stage.stop,
                units=describe_units(stage.start, stage.stop, unit_count),
                predicted_decode_ms=stage.decode_s * 1e3,
                predicted_hop_ms=stage.hop_s * 1e3,
                predicted_prefill_ms=stage.prefill_s * 1e3,
                weight_bytes=stage.weight_bytes,
                kv_bytes=_cache_bytes(plan, stage.start, stage.stop),
                planned_bytes=of_node.memory_bytes,
                memory_limit_bytes=of_node.memory_limit_bytes,
                stored_bytes=plan.stored_bytes(stage.node),
                rss_bytes=report.rss_bytes if report else None,
                peak_rss_bytes=report.peak_rss_bytes if report else None,
                downloaded_bytes=report.downloaded_bytes if report else None,
                load_s=report.load_s if report else None,
            )
        )
    return PlanView(
        pipeline=plan.pipeline,
        epoch=str(plan.epoch),
        model=plan.model.name,
        context_tokens=plan.context_tokens,
        slots=plan.slots,
        batches=plan.batches,
        wire_dtype=plan.wire_dtype,
        kv_dtype=KV_DTYPES[plan.model.manifest.kv_dtype],
        kv_fp16_blocks=plan.model.manifest.kv_halves,
        draft=plan.draft,
        chunk_tokens=plan.chunk_tokens,
        memory_margin=plan.memory_margin,
        unit_count=unit_count,
        stages=tuple(stages),
        objective=plan.solution.objective.value,
        status=plan.solution.status.value,
        gap=plan.solution.gap,
        solver=plan.solution.solver,
        solver_note=plan.solution.solver_note,
        solver_gap=plan.solution.solver_gap,
        solve_ms=plan.solution.solve_s * 1e3,
        predicted_decode_ms=predicted.decode_s * 1e3,
        predicted_tokens_per_s=predicted.tokens_per_s,
        predicted_tokens_per_s_many=predicted.tokens_per_s_many,
        predicted_ttft_ms=predicted.ttft_s * 1e3,
        predicted_prompt_tokens=predicted.prompt_tokens,
        bottleneck_node=predicted.bottleneck_node,
    )


def _cache_bytes(plan: DeployedPlan, start: int, stop: int) -> int:
    """What the units [start, stop) keep of all texts; the planner counts each block as the mean of all."""
    units = plan.model.manifest.units[start:stop]
    return sum(cache_bytes(unit, plan.context_tokens, plan.slots) for unit in units)


def successor_view(plan: DeployedPlan, state: str) -> PlanOnItsWay:
    """A plan that is to follow, in short."""
    unit_count = plan.model.manifest.num_units
    return PlanOnItsWay(
        state=state,
        epoch=str(plan.epoch),
        model=plan.model.name,
        stages=tuple(
            UnitsOnNode(
                node=stage.node,
                start=stage.start,
                stop=stage.stop,
                units=describe_units(stage.start, stage.stop, unit_count),
            )
            for stage in plan.ring
        ),
    )
