"""The frames a stage sends."""

from __future__ import annotations

import struct
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
            flags=(Flag.SAMPLE if row.sample else 0) | (Flag.VERIFY if row.verify else 0),
            payload=payload,
        )
    )


def tokens_frame(
    request: int,
    epoch: Epoch,
    attempt: int,
    *,
    position: int,
    ids: Sequence[int],
    guess: Sequence[int],
    finish: Flag,
) -> bytearray:
    """Tokens from ``position`` on, for stage 0 and the orchestrator, and a guess of what follows, for stage 0."""
    return encode_frame(
        Frame(
            kind=Kind.TOKENS,
            request=request,
            epoch=epoch,
            attempt=attempt,
            position=position,
            count=len(ids),
            width=len(guess),
            dtype=Dtype.INT32,
            flags=finish,
            payload=struct.pack(f"<{len(ids) + len(guess)}i", *ids, *guess),
        )
    )


def token_ids(frame: Frame) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a TOKENS frame, and the guess of what follows."""
    ids = struct.unpack(f"<{frame.count + frame.width}i", frame.payload)
    return ids[: frame.count], ids[frame.count :]


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
