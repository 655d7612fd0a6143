"""The overview that ``linguabus top`` shows: pipelines as predicted and as observed, nodes, moves under way (pure)."""

from __future__ import annotations

from orchestrator.control_plane import ControlPlane
from orchestrator.deployment.plan import DeployedPlan
from orchestrator.fleet.fleet import FleetState
from orchestrator.pipelines.pipeline import Pipeline
from schemas.messages import OverviewReply, PipelineAtWork, StageAtWork, StageMetrics
from schemas.units_text import describe_units


def overview(plane: ControlPlane, now_s: float) -> OverviewReply:
    """The overview of all pipelines and nodes."""
    return OverviewReply(
        pipelines=tuple(
            _pipeline(pipeline, plane.fleet, plane.pipelines.tokens_per_s(pipeline.name, now_s))
            for pipeline in plane.serving()
        ),
        nodes=plane.nodes_view(now_s),
    )


def _pipeline(pipeline: Pipeline, fleet: FleetState, tokens_per_s: float) -> PipelineAtWork:
    requests = pipeline.requests
    plan = pipeline.active.plan if pipeline.active else None
    return PipelineAtWork(
        pipeline=pipeline.name,
        state=pipeline.state(),
        reason=pipeline.report.why_it_stays if plan else pipeline.report.why_none.reason,
        model=plan.model.name if plan else None,
        epoch=str(plan.epoch) if plan else None,
        predicted_tokens_per_s=plan.solution.predicted.tokens_per_s if plan else None,
        predicted_tokens_per_s_many=plan.solution.predicted.tokens_per_s_many if plan else None,
        open_requests=requests.open_count,
        queued_requests=requests.queued_count,
        slots=plan.slots if plan else None,
        stages=tuple(_stage(plan, index, fleet) for index in range(len(plan.ring))) if plan else (),
        progress=pipeline.progress(),
        move=pipeline.moves_view().now,
        tokens_per_s=tokens_per_s,
    )


def _stage(plan: DeployedPlan, index: int, fleet: FleetState) -> StageAtWork:
    ref, predicted = plan.ring[index], plan.solution.predicted.stages[index]
    seen = _seen(plan, index, fleet)
    return StageAtWork(
        stage=index,
        node=ref.node,
        start=ref.start,
        stop=ref.stop,
        units=describe_units(ref.start, ref.stop, plan.model.manifest.num_units),
        predicted_ms=predicted.decode_s * 1e3,
        step_ms=seen.decode_s * 1e3 if seen and seen.decode_s is not None else None,
        rows=seen.decode_rows if seen else None,
        queue=seen.queue if seen else None,
        open_requests=seen.open_requests if seen else None,
    )


def _seen(plan: DeployedPlan, index: int, fleet: FleetState) -> StageMetrics | None:
    """The figures that a stage's node reported last; None without any."""
    node = fleet.nodes.get(plan.ring[index].node)
    stages = node.heartbeat.stages if node and node.heartbeat else ()
    mine = (plan.pipeline, plan.epoch, index)
    return next((stage for stage in stages if (stage.pipeline, stage.epoch, stage.stage) == mine), None)
