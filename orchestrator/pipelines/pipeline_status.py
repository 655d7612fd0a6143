"""What operators are shown of a pipeline (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.deployment.plan_view import plan_view
from orchestrator.fleet.fleet import Node
from orchestrator.pipelines.pipeline import Pipeline
from schemas.contract import members
from schemas.messages import PipelineStatus, PlanInForce, StageView


def status_of(pipeline: Pipeline) -> PipelineStatus:
    """What ``linguabus status`` shows of a pipeline."""
    active = pipeline.active
    predicted = active.plan.solution.predicted if active else None
    return PipelineStatus(
        pipeline=pipeline.name,
        state=pipeline.state(),
        model=active.plan.model.name if active else None,
        draft=active.plan.draft if active else None,
        epoch=str(active.plan.epoch) if active else None,
        nodes=tuple(dict.fromkeys(active.plan.nodes)) if active else (),
        open_requests=pipeline.requests.open_count,
        queued_requests=pipeline.requests.queued_count,
        moves=pipeline.moves_view(),
        predicted_tokens_per_s=predicted.tokens_per_s if predicted else None,
        predicted_tokens_per_s_many=predicted.tokens_per_s_many if predicted else None,
    )


def plan_in_force(pipeline: Pipeline, nodes: Mapping[str, Node]) -> PlanInForce | None:
    """What ``linguabus plan`` shows of a pipeline's plan, and of the one on its way; None where there is neither."""
    shown = pipeline.shown_plan()
    if shown is None:
        return None
    view = plan_view(shown.plan, shown.ready)
    stages = tuple(_found_now(stage, shown.plan, nodes.get(stage.node)) for stage in view.stages)
    return PlanInForce(
        **members(replace(view, stages=stages)),
        state=pipeline.state(),
        in_force=pipeline.active is not None,
        next=pipeline.next_view(),
        standby=pipeline.standby.view(shown.plan, nodes),
        moves=pipeline.moves_view(),
        left_out=pipeline.eligibility.left_out(),
    )


def _found_now(stage: StageView, plan: DeployedPlan, node: Node | None) -> StageView:
    """A stage with its node's memory of now; as it was when the stage was ready, until a heartbeat tells of it."""
    beat = node.heartbeat if node else None
    if beat is None or (plan.pipeline, plan.epoch) not in ((held.pipeline, held.epoch) for held in beat.stages):
        return stage
    return replace(stage, rss_bytes=beat.rss_bytes, peak_rss_bytes=beat.peak_rss_bytes)
