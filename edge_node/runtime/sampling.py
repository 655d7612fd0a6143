"""The choice of a token: a function of logits, parameters, seed and position, with no hidden state.

Each draw is keyed by (seed, position), so that a replay, on whichever node, gives the same token. Requests
without a seed get a random one when they are submitted; a seed given by the user repeats the text.
"""

from __future__ import annotations

import functools
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

_BLOCK = 256
_LIKELY = 1e-5
"""Of the likeliest token's weight: what is below is seldom among those that are kept."""


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
    ids = _ids_of(allowed)
    among = logits[ids]
    if not np.isfinite(among.max()):
        raise NotFinite("a logit that it computed is NaN or infinite")
    if sampling.temperature == 0:
        return int(ids[among.argmax()])
    return int(ids[_draw(among, sampling, draw_uniform(sampling.seed, position))])


@functools.lru_cache(maxsize=2)
def _ids_of(mask: bytes) -> NDArray[np.int64]:
    """The tokens of a set. Steps that follow one another often have the same one: inside a text in quotes, say."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little"))


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
    weights = logits.astype(np.float64)
    weights -= weights.max()
    with np.errstate(over="ignore"):  # a tiny temperature: all but the best go to -infinity
        weights /= sampling.temperature
    np.exp(weights, out=weights)
    candidates = None  # all, in the order of their ids
    if 0 < sampling.top_k < weights.size:
        candidates = _likeliest(weights, sampling.top_k)
    if sampling.top_p < 1.0:
        candidates = _nucleus(weights, sampling.top_p) if candidates is None else _first_of(
            candidates, weights[candidates], sampling.top_p * weights[candidates].sum()
        )  # fmt: skip
    if sampling.min_p > 0:  # the likeliest token's weight is 1
        likely = (weights if candidates is None else weights[candidates]) >= sampling.min_p
        candidates = np.flatnonzero(likely) if candidates is None else candidates[likely]
    if candidates is None:
        return _passed(weights, uniform)
    return int(candidates[_passed(weights[candidates], uniform)])


def _passed(weights: NDArray[np.float64], share: float) -> int:
    """Where the running sum of weights passes this share (below 1) of all; summed up in blocks, then inside of one."""
    sums = np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)).cumsum()
    aim = min(share * sums[-1], np.nextafter(sums[-1], 0.0))
    block = int(np.searchsorted(sums, aim, side="right"))
    first = block * _BLOCK
    inside = weights[first : first + _BLOCK]
    before = sums[block - 1] if block else 0.0
    index = int(np.searchsorted(inside.cumsum(), aim - before, side="right"))
    if index == inside.size:  # the two sums are rounded differently: it is the last one that has any weight
        index = int(np.flatnonzero(inside)[-1])
    return first + index


def _likeliest(weights: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """So many of the likeliest tokens."""
    likely = weights[weights >= _LIKELY]
    lowest = np.partition(likely if likely.size >= count else weights, -count)[-count]
    return _likeliest_first(weights, lowest)[:count]


def _nucleus(weights: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """The likeliest tokens that together have this share of all (Holtzman et al., arXiv 1904.09751).

    All below the lower threshold together have less than the rest: the set is complete without them. Most often it is
    so without those below the higher one, which are far more.
    """
    total = weights.sum()
    lower = (1.0 - share) * total / weights.size
    for threshold in (max(lower, _LIKELY), lower):
        kept = _likeliest_first(weights, threshold)
        found = _first_of(kept, weights[kept], share * total)
        if found.size < kept.size:
            break
    return found


def _first_of(candidates: NDArray[np.int64], weights: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """The first candidates that together have at least this weight."""
    return candidates[: int(np.searchsorted(np.cumsum(weights), least)) + 1]


def _likeliest_first(weights: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Ids of at least this weight, lower ids first among equals: the order, and so the draw, is the same everywhere."""
    kept = np.flatnonzero(weights >= threshold)
    return kept[np.argsort(-weights[kept], kind="stable")]
