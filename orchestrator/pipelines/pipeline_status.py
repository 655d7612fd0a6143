"""The status of a pipeline, for operators (pure)."""

from __future__ import annotations

from orchestrator.pipelines.pipeline import Pipeline
from schemas.messages import PipelineStatus


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
