"""How long a plan's chunks and context may be where the broker passes on short messages only (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.model.manifest import DTYPE_BYTES, Manifest
from orchestrator.planning.errors import PlanningError
from orchestrator.timing import LEAST_CONTEXT_TOKENS
from schemas.codec import (
    HEADER_BYTES,
    KV_HEADER_BYTES,
    WIRE_DTYPES,
    activation_payload_bytes,
    activation_positions,
)
from schemas.messages import WireDtype
from schemas.segment_tensors import cache_parts, state_pieces

LEAST_CHUNK_TOKENS = 2
"""One position alone takes another path through attention and gives other last bits."""
_OPEN_BYTES = 2_048
"""A request's opening without the ids of its tokens."""
RAISE_IT = "raise the broker's limit of a message (Mosquitto: max_packet_size, message_size_limit)"


@dataclass(frozen=True)
class MessageFit:
    """The longest chunk of a prompt and the longest context whose messages fit."""

    chunk_tokens: int
    context_tokens: int


def message_fit(
    manifest: Manifest, *, wire_dtype: WireDtype, chunk_tokens: int, context_tokens: int, max_message_bytes: int
) -> MessageFit:
    """The longest chunk and context, up to those asked for, whose messages fit.

    Raises:
        PlanningError: not even the shortest messages do; with both numbers.
    """
    dtype = WIRE_DTYPES[wire_dtype]
    rows = [
        part.heads * part.dim * DTYPE_BYTES[cache.dtype] for cache in manifest.layers for part in cache_parts(cache)
    ] + [4 * values for cache in manifest.layers for values in state_pieces(cache)[:1]]
    needed_bytes = max(
        HEADER_BYTES + activation_payload_bytes(dtype, LEAST_CHUNK_TOKENS, manifest.width),
        HEADER_BYTES + KV_HEADER_BYTES + max(rows, default=0),
        _OPEN_BYTES + _id_bytes(manifest) * min(LEAST_CONTEXT_TOKENS, context_tokens),
    )
    if needed_bytes > max_message_bytes:
        raise PlanningError(
            f"{manifest.name} needs messages of {needed_bytes:,} bytes with {wire_dtype} on the wire, and the broker"
            f" passes on {max_message_bytes:,} bytes at most: {RAISE_IT}"
        )
    return MessageFit(
        chunk_tokens=min(chunk_tokens, activation_positions(dtype, manifest.width, max_message_bytes)),
        context_tokens=min(context_tokens, context_that_fits(manifest, max_message_bytes)),
    )


def context_that_fits(manifest: Manifest, max_message_bytes: int) -> int:
    """The longest context, in tokens, whose ids a stage can be told in one message."""
    return (max_message_bytes - _OPEN_BYTES) // _id_bytes(manifest)


def _id_bytes(manifest: Manifest) -> int:
    """Bytes of a token's id in JSON, with its comma."""
    return len(str(manifest.vocab_size - 1)) + 1
