"""The frames a stage sends."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from edge_node.effects import KvBlock
from edge_node.work import Row
from schemas.codec import (
    MAX_FRAMES,
    SAMPLE,
    VERIFY,
    Dtype,
    Flag,
    Frame,
    Kind,
    KvRowsHeader,
    encode_frame,
    pack_frame,
    pack_kv_header,
)
from schemas.messages import Epoch


def activation_frame(row: Row, epoch: Epoch, *, width: int, dtype: Dtype, payload: bytes) -> bytes:
    """The frame with a row's hidden states, for the next stage."""
    flags = (SAMPLE if row.sample else 0) | (VERIFY if row.verify else 0)
    if row.verify:
        payload += row.marks
    return pack_frame(
        Kind.ACTIVATION, dtype, flags, row.count, row.request, epoch, row.attempt, row.position, width, payload
    )


def tokens_frame(
    request: int,
    epoch: Epoch,
    attempt: int,
    *,
    position: int,
    ids: Sequence[int],
    guess: Sequence[int],
    window: int,
    finish: Flag,
) -> bytes:
    """The frame with tokens from ``position`` on, for stage 0 and the orchestrator, and a guess of what follows.

    ``window``: the most positions of a window that the guess is to be cut into.
    """
    chain = (*guess, window) if guess else ()
    payload = struct.pack(f"<{len(ids) + len(chain)}i", *ids, *chain)
    return pack_frame(
        Kind.TOKENS, Dtype.INT32, int(finish), len(ids), request, epoch, attempt, position, len(guess), payload
    )


def guess_frame(request: int, epoch: Epoch, attempt: int, *, position: int, ids: Sequence[int], window: int) -> bytes:
    """The frame that tells stage 0 what a draft model guesses to follow the tokens before ``position``.

    ``window``: as in `tokens_frame`.
    """
    payload = struct.pack(f"<{len(ids) + 1}i", *ids, window)
    return pack_frame(Kind.GUESS, Dtype.INT32, 0, len(ids), request, epoch, attempt, position, 0, payload)


def logprobs_frame(
    request: int, epoch: Epoch, attempt: int, *, position: int, alternatives: int, logprobs: Sequence[bytes]
) -> bytes:
    """The frame that tells the orchestrator how likely each of the tokens from ``position`` on was."""
    return pack_frame(
        Kind.LOGPROBS, Dtype.FP32, 0, len(logprobs), request, epoch, attempt, position, alternatives, b"".join(logprobs)
    )


def joined_frames(parts: Sequence[bytes], max_message_bytes: int) -> list[bytes]:
    """Messages of what a run's rows send, as few as there can be; a part is a row's, and may be two frames."""
    if len(parts) == 1:
        return list(parts)
    messages: list[list[bytes]] = []
    size_bytes = 0
    for part in parts:
        if not messages or size_bytes + len(part) > max_message_bytes or len(messages[-1]) == MAX_FRAMES // 2:
            messages.append([])
            size_bytes = 0
        messages[-1].append(part)
        size_bytes += len(part)
    return [b"".join(message) for message in messages]


def token_ids(frame: Frame) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The tokens of a TOKENS frame, the guess of what follows and the most positions of its windows (0: no guess).

    Of a GUESS frame all ids are the guess.
    """
    ids = struct.unpack(f"<{len(frame.payload) // 4}i", frame.payload)
    if frame.kind is Kind.GUESS:
        return (), ids[:-1], ids[-1]
    return ids[: frame.count], ids[frame.count : frame.count + frame.width], ids[-1] if frame.width else 0


def replay_frame(refused: Frame, valid_length: int) -> bytes:
    """The frame that tells stage 0 that this stage's KV cache ends before the frame it was sent."""
    return encode_frame(
        Frame(
            kind=Kind.REPLAY,
            request=refused.request,
            epoch=refused.epoch,
            attempt=refused.attempt,
            position=valid_length,
        )
    )


def kv_rows_frame(
    block: KvBlock, epoch: Epoch, number: int, *, heads: int, head_dim: int, dtype: Dtype, rows: bytes
) -> bytes:
    """The frame with rows of a KV cache, in message ``number`` of their copy. ``rows`` is (count, heads, head_dim)."""
    header = KvRowsHeader(layer=block.layer, part=block.part, heads=heads, head_dim=head_dim)
    return encode_frame(
        Frame(
            kind=Kind.KV_ROWS,
            request=block.request,
            epoch=epoch,
            attempt=number,
            position=block.position,
            count=block.count,
            width=heads * head_dim,
            dtype=dtype,
            payload=pack_kv_header(header) + rows,
        )
    )


def kv_ack_frame(basis: Epoch, number: int, stage: int) -> bytes:
    """The frame that tells a source that ``stage`` of the epoch to be has taken in message ``number``."""
    return encode_frame(Frame(kind=Kind.KV_ACK, request=0, epoch=basis, attempt=number, position=stage))
