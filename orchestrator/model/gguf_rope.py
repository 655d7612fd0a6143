"""What a GGUF file says of scaled rotary embeddings, in transformers' words. Its own reader leaves all of it out.

A file says it in entries (``ARCHITECTURE.rope.scaling.*``), or in tensors with a divisor for each frequency:
``rope_freqs.weight``, which Llama 3.1 and its successors have, and a pair for short and long texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.model.errors import UnsupportedModel

DIVISORS, SHORT_DIVISORS, LONG_DIVISORS = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
ROPE_TENSORS = (DIVISORS, SHORT_DIVISORS, LONG_DIVISORS)
LLAMA3_LOW, LLAMA3_HIGH = 1.0, 4.0
"""How many turns in the trained length bound what is scaled in full, and not at all; the same in all releases."""
TOLERANCE = 1e-3


def rope_scaling(
    entries: Mapping[str, int | float | str], tensors: Mapping[str, Sequence[float]], base: float
) -> dict[str, Any]:
    """transformers' ``rope_parameters`` less ``rope_theta``; empty if nothing is scaled.

    Args:
        entries: of the header, by key.
        tensors: those of ``ROPE_TENSORS`` that the file has.
        base: ``rope_theta``.

    Raises:
        UnsupportedModel: it is scaled in a way that transformers has no words for.
    """
    architecture = entries.get("general.architecture")
    prefix = f"{architecture}.rope."
    told = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    kind = str(told.get("scaling.type", "none"))
    factor = float(told.get("scaling.factor", told.get("scale_linear", 1.0)))
    trained = int(told.get("scaling.original_context_length", entries.get(f"{architecture}.context_length", 0)))
    attention = float(told.get("scaling.attn_factor", 1.0))
    if SHORT_DIVISORS in tensors and LONG_DIVISORS in tensors:
        return {
            "rope_type": "longrope",
            "short_factor": list(tensors[SHORT_DIVISORS]),
            "long_factor": list(tensors[LONG_DIVISORS]),
            "original_max_position_embeddings": trained,
            "attention_factor": attention if "scaling.attn_factor" in told else None,
        }
    if DIVISORS in tensors:
        if kind != "none" or factor != 1.0:
            raise UnsupportedModel(f"its rotary embedding is scaled twice, by {DIVISORS} and as {kind}")
        return _as_llama3(tensors[DIVISORS], base)
    if kind == "none" and "scale_linear" not in told:
        return {}
    if kind in ("linear", "none"):
        return {"rope_type": "linear", "factor": factor} if factor != 1.0 else {}
    if kind != "yarn" or "scaling.yarn_log_multiplier" in told:
        raise UnsupportedModel(f"its rotary embedding is scaled in a way that is not supported ({kind})")
    found = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained}
    for ours, theirs in (("beta_fast", "scaling.yarn_beta_fast"), ("beta_slow", "scaling.yarn_beta_slow")):
        if theirs in told:
            found[ours] = float(told[theirs])
    if attention != 1.0:  # theirs comes on top of what every YaRN has
        found["attention_factor"] = attention * (0.1 * math.log(factor) + 1.0)
    return found


def _as_llama3(divisors: Sequence[float], base: float) -> dict[str, Any]:
    """The form that Llama 3 has: nothing at high frequencies, all at low ones, a slope of turns between."""
    factor = max(divisors)
    if all(abs(d - 1.0) < TOLERANCE for d in divisors):
        return {}
    count = len(divisors)
    for trained in (1 << power for power in range(5, 21)):
        expected = [_llama3_divisor(base ** (-i / count), factor, trained) for i in range(count)]
        if all(abs(d - e) <= TOLERANCE * e for d, e in zip(divisors, expected, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LLAMA3_LOW,
                "high_freq_factor": LLAMA3_HIGH,
                "original_max_position_embeddings": trained,
            }
    raise UnsupportedModel(f"its {DIVISORS} scale the rotary embedding in a form that is not Llama 3's")


def _llama3_divisor(frequency: float, factor: float, trained: int) -> float:
    turns = trained * frequency / (2 * math.pi)
    if turns > LLAMA3_HIGH:
        return 1.0
    if turns < LLAMA3_LOW:
        return factor
    share = (turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)
    return 1.0 / ((1.0 - share) / factor + share)
