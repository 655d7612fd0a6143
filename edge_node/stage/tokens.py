"""Tokens of answers that a stage has had a part in (pure)."""

from __future__ import annotations

from edge_node.stage.stage import Stage


def tokens_of(stage: Stage) -> int:
    """Since the stage was loaded; 0 if an earlier stage of the ring is on this node too, and counts them."""
    spec = stage.spec
    if any(ref.node == spec.node for ref in spec.ring[: spec.stage]):
        return 0
    return stage.stats.tokens + sum(state.tokens_computed for state in stage.requests.values())
