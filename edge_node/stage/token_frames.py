"""The frames of a request's tokens, as the last stage publishes them (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_node.requests.request import StageRequest
from edge_node.wire.frames import logprobs_frame, tokens_frame
from schemas.codec import Flag, request_number
from schemas.logprobs import unpack_logprobs
from schemas.messages import Epoch


def token_frames(
    state: StageRequest, epoch: Epoch, position: int, ids: Sequence[int], finish: Flag, guess: Sequence[int]
) -> bytes:
    """The frame with tokens from ``position`` on and a guess of what follows; behind it, how likely they were.

    That is if it was asked for. They count as sent.
    """
    number, attempt = request_number(state.open.request), state.rule.attempt
    window = state.window_positions
    data = tokens_frame(number, epoch, attempt, position=position, ids=ids, guess=guess, window=window, finish=finish)
    if known := state.logprobs_of(position, len(ids)):
        alternatives = len(unpack_logprobs(known[0]).ids)
        data += logprobs_frame(number, epoch, attempt, position=position, alternatives=alternatives, logprobs=known)
    state.stats.sent(len(data), decode=True)
    return data
