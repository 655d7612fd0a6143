"""The choice of a token: a function of logits, parameters, seed and position, with no hidden state.

Each draw is keyed by (seed, position), so that a replay, on whichever node, gives the same token. Requests
without a seed get a random one when they are submitted; a seed given by the user repeats the text.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.errors import NotFinite
from edge_node.work import Allowed
from schemas.messages import Sampling


def draw_uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on its arguments alone (53 bits of BLAKE2b)."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    return int(struct.unpack("<Q", digest)[0] >> 11) * 2.0**-53


def choose_token(
    logits: NDArray[Any],
    sampling: Sampling,
    position: int,
    history: Sequence[int],
    prompt_tokens: int = 0,
    allowed: Allowed | None = None,
) -> int:
    """The token at ``position``.

    Args:
        logits: (vocabulary,), any float type; not changed.
        sampling: temperature 0 is greedy, the lowest id winning a tie.
        position: of the token to choose, in the whole sequence.
        history: ids before it, for penalties; empty unless the sampling looks back.
        prompt_tokens: how many of them are the prompt's.
        allowed: the tokens that may come, where not all may.

    Raises:
        NotFinite: a logit is NaN or +infinity.
    """
    if history:
        logits = _penalised(logits, sampling, np.asarray(history, dtype=np.int64), prompt_tokens)
    best = int(logits.argmax())  # NaN wins argmax, so looking at the winner is enough
    if not math.isfinite(logits[best]):
        raise NotFinite("a logit that it computed is NaN or infinite")
    if allowed is not None:
        return _choose_among(logits, sampling, position, allowed)
    if sampling.temperature == 0:
        return best
    return _draw(logits, sampling, draw_uniform(sampling.seed, position))


def _choose_among(logits: NDArray[Any], sampling: Sampling, position: int, allowed: Allowed) -> int:
    """The choice among some tokens alone, as if there were no others."""
    if isinstance(allowed, int):
        return allowed
    ids = np.flatnonzero(np.unpackbits(np.frombuffer(allowed, np.uint8), bitorder="little"))
    among = logits[ids]
    if not np.isfinite(among.max()):
        raise NotFinite("a logit that it computed is NaN or infinite")
    if sampling.temperature == 0:
        return int(ids[among.argmax()])
    return int(ids[_draw(among, sampling, draw_uniform(sampling.seed, position))])


def _penalised(
    logits: NDArray[Any], sampling: Sampling, history: NDArray[np.int64], prompt_tokens: int
) -> NDArray[np.float32]:
    """The logits after the repetition penalty (CTRL, arXiv 1909.05858), which counts prompt and answer, and then
    OpenAI's presence and frequency penalties, which count the answer's own tokens."""
    result = logits.astype(np.float32)
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(history)
        values, penalty = result[seen], sampling.repetition_penalty
        result[seen] = np.where(values > 0, values / penalty, values * penalty)
    if sampling.presence_penalty or sampling.frequency_penalty:
        own, times = np.unique(history[prompt_tokens:], return_counts=True)
        result[own] -= np.float32(sampling.presence_penalty) + np.float32(sampling.frequency_penalty) * times
    return result


def _draw(logits: NDArray[Any], sampling: Sampling, uniform: float) -> int:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    with np.errstate(over="ignore"):  # a tiny temperature: all but the best go to -infinity
        weights = np.exp(shifted / sampling.temperature)
    candidates = np.arange(weights.size)
    if 0 < sampling.top_k < weights.size:
        candidates = _likeliest_first(weights, np.partition(weights, -sampling.top_k)[-sampling.top_k])
        candidates = candidates[: sampling.top_k]
    total = weights[candidates].sum()
    if sampling.top_p < 1.0:
        if candidates.size == weights.size:
            # All tokens below this weight together have less than 1 - top_p: the set is complete without them.
            candidates = _likeliest_first(weights, (1.0 - sampling.top_p) * total / weights.size)
        reached = np.searchsorted(np.cumsum(weights[candidates]), sampling.top_p * total)
        candidates = candidates[: int(reached) + 1]
    if sampling.min_p > 0:
        candidates = candidates[weights[candidates] >= sampling.min_p]  # the likeliest token's weight is 1
    cumulative = np.cumsum(weights[candidates])
    drawn = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(candidates[min(drawn, candidates.size - 1)])


def _likeliest_first(weights: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Ids of at least this weight, lower ids first among equals: the order, and so the draw, is the same everywhere."""
    kept = np.flatnonzero(weights >= threshold)
    return kept[np.argsort(-weights[kept], kind="stable")]
