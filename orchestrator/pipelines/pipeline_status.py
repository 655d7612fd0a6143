"""What operators are shown of a pipeline (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.deployment.plan_view import plan_view
from orchestrator.fleet.fleet import Node
from orchestrator.pipelines.pipeline import Pipeline
from schemas.contract import members
from schemas.messages import PipelineStatus, PlanInForce


def status_of(pipeline: Pipeline) -> PipelineStatus:
    """What ``linguabus status`` shows of a pipeline."""
    active = pipeline.active
    predicted = active.plan.solution.predicted if active else None
    return PipelineStatus(
        pipeline=pipeline.name,
        state=pipeline.state(),
        model=active.plan.model.name if active else None,
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
    return PlanInForce(
        **members(plan_view(shown.plan, shown.ready)),
        state=pipeline.state(),
        in_force=pipeline.active is not None,
        next=pipeline.next_view(),
        standby=pipeline.standby.view(shown.plan, nodes),
        moves=pipeline.moves_view(),
        left_out=pipeline.eligibility.left_out(),
    )
