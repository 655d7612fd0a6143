"""A plan as the history keeps it."""

from __future__ import annotations

from schemas.messages import Epoch, PlanView, StageView


def plan_of(pipeline: str, epoch: Epoch) -> PlanView:
    """A plan of one stage."""
    stage = StageView(
        stage=0, node="a", start=0, stop=6, units="embed, blocks 0-3, head", predicted_decode_ms=4.5,
        predicted_hop_ms=0.0, predicted_prefill_ms=100.0, weight_bytes=90_000_000, kv_bytes=20_000_000,
        planned_bytes=200_000_000, memory_limit_bytes=1_500_000_000, stored_bytes=42_000_000, rss_bytes=None,
        peak_rss_bytes=None, downloaded_bytes=None, load_s=None,
    )  # fmt: skip
    return PlanView(
        pipeline=pipeline, epoch=str(epoch), model="tiny", context_tokens=512, slots=2, batches=(1, 1),
        wire_dtype="fp16", chunk_tokens=128, unit_count=6, stages=(stage,), objective="latency", status="optimal",
        gap=0.0, solver="glpk", solver_gap=0.0, solve_ms=81.0, predicted_decode_ms=4.5, predicted_tokens_per_s=222.2,
        predicted_tokens_per_s_many=222.2, predicted_ttft_ms=110.0, predicted_prompt_tokens=128, bottleneck_node="a",
    )  # fmt: skip
