"""The frames a stage sends."""

from __future__ import annotations

from collections.abc import Sequence

from edge_node.work import Row
from schemas.codec import Dtype, Flag, Frame, Kind, encode_frame
from schemas.messages import Epoch


def activation_frame(row: Row, epoch: Epoch, *, width: int, dtype: Dtype, payload: bytes) -> bytearray:
    """A row's hidden states for the next stage."""
    return encode_frame(
        Frame(
            kind=Kind.ACTIVATION,
            request=row.request,
            epoch=epoch,
            attempt=row.attempt,
            position=row.position,
            count=row.count,
            width=width,
            dtype=dtype,
            flags=Flag.SAMPLE if row.sample else Flag.NONE,
            payload=payload,
        )
    )


def tokens_frame(
    request: int, epoch: Epoch, *, attempt: int, position: int, ids: Sequence[int], finish: Flag
) -> bytearray:
    """Tokens from ``position`` on, for stage 0 and the orchestrator."""
    return encode_frame(
        Frame(
            kind=Kind.TOKENS,
            request=request,
            epoch=epoch,
            attempt=attempt,
            position=position,
            count=len(ids),
            dtype=Dtype.INT32,
            flags=finish,
            payload=b"".join(token.to_bytes(4, "little", signed=True) for token in ids),
        )
    )


def replay_frame(refused: Frame, valid_length: int) -> bytearray:
    """Tells stage 0 that this stage's KV cache ends before the frame it was sent."""
    return encode_frame(
        Frame(
            kind=Kind.REPLAY,
            request=refused.request,
            epoch=refused.epoch,
            attempt=refused.attempt,
            position=valid_length,
        )
    )
