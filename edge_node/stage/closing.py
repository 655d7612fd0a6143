"""The end of requests on a node's stages (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from edge_node.effects import Effect, Reply
from edge_node.stage.stage import Stage
from schemas.codec import request_id, request_number
from schemas.messages import RequestClosed, StageTiming


def close(request: str, stages: Collection[Stage], node: str) -> list[Effect]:
    """End a request; that it is not open is confirmed too, or the node would be told of its end for ever."""
    was_open = any(request_number(request) in stage.requests for stage in stages)
    effects = [effect for stage in stages for effect in stage.close(request)]
    if was_open:
        return effects
    return [Reply(RequestClosed(request=request, timing=StageTiming(node=node, stage=0)))]


def close_others(kept: Collection[str], stages: Iterable[Stage]) -> list[Effect]:
    """End all requests of these stages but those that are ``kept``."""
    ended = [(stage, request) for stage in stages for request in map(request_id, stage.requests)]
    return [effect for stage, request in ended if request not in kept for effect in stage.close(request)]
