"""How likely the model found a token: its own distribution, at temperature 1 and before any penalty or limit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.limits import LEAST_LOGPROB
from schemas.logprobs import Logprobs, pack_logprobs


def token_logprobs(logits: NDArray[Any], token: int, alternatives: int) -> bytes:
    """The logarithm of a token's probability and those of the likeliest tokens, packed for the wire.

    Args:
        logits: (vocabulary,), any float type, all that are not masked finite; not changed.
        alternatives: how many of the likeliest tokens are wanted; of equal ones the lowest ids.
    """
    wide = logits.astype(np.float32)
    shifted = wide - wide.max()
    shifted -= np.log(np.exp(shifted).sum())
    count = min(alternatives, wide.size)
    ids = np.empty(0, np.int64)
    if count:  # by the logits themselves: shifted ones may have become equal
        likely = np.flatnonzero(wide >= np.partition(wide, -count)[-count])
        ids = likely[np.argsort(-wide[likely], kind="stable")][:count]
    values = np.clip(shifted[[token, *ids]], LEAST_LOGPROB, 0.0)
    return pack_logprobs(Logprobs(float(values[0]), ids.tolist(), values[1:].tolist()))
