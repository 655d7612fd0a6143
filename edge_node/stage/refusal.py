"""Why a node can't get a stage ready that it is told to (pure)."""

from __future__ import annotations

from edge_node.stage_spec import StageSpec
from schemas.codec import HEADER_BYTES, activation_payload_bytes
from schemas.messages import PrepareSegment


def refusal(command: PrepareSegment, *, node: str, memory_bytes: int, max_message_bytes: int) -> str:
    """Why this node can't; empty when it can.

    Args:
        memory_bytes: what the node may use in all.
        max_message_bytes: the longest payload that the broker passes on for it.
    """
    if command.stage >= len(command.ring) or command.ring[command.stage].node != node:
        return f"stage {command.stage} of the ring is not {node}'s"
    if command.planned_bytes > memory_bytes:
        missing = command.planned_bytes - memory_bytes
        return f"{node} may use {memory_bytes} bytes, the plan needs {missing} more"
    spec = StageSpec.of(command)
    if spec.max_message_bytes > max_message_bytes:
        limits = f"{spec.max_message_bytes} bytes, the broker passes on {max_message_bytes} for {node}"
        return f"the plan has messages of up to {limits}"
    segment, allowed_bytes = spec.segment, spec.max_message_bytes - HEADER_BYTES
    chunk_bytes = activation_payload_bytes(segment.wire, segment.chunk_tokens, segment.width_out)
    if segment.width_out and chunk_bytes > allowed_bytes:
        return f"a chunk of {segment.chunk_tokens} positions is {chunk_bytes} bytes, allowed are {allowed_bytes}"
    return ""
