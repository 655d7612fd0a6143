"""Names of a segment's inputs and outputs: the orchestrator makes the graph, the nodes bind it.

Those of a whole decoder (ids, mask, positions, KV cache, logits) are the ones that exporters give them.
"""

from __future__ import annotations

from typing import Final

IDS: Final = "input_ids"
MASK: Final = "attention_mask"
POSITIONS: Final = "position_ids"
LENGTHS: Final = "seqlens_k"
TOTAL_LENGTH: Final = "total_sequence_length"
ATTENTION_PADS: Final = "attention_pads"
ATTENTION_END: Final = "attention_end"
LOGIT_POSITIONS: Final = "logit_positions"
LOGITS: Final = "logits"
HIDDEN_IN: Final = "hidden"
HIDDEN_OUT: Final = "hidden_out"
HALVES_IN: Final = "hidden_halves"
SCALE_IN: Final = "hidden_scale"
HALVES_OUT: Final = "halves_out"
SQUARES_OUT: Final = "squares_out"
KV_PARTS: Final = ("key", "value")
PAST, PRESENT = "past_key_values.", "present."


def past(layer: int, part: str) -> str:
    """Name of the input with the keys or values of a layer, as they are before a run."""
    return f"{PAST}{layer}.{part}"


def present(layer: int, part: str) -> str:
    """Name of the output with the keys or values of a layer, as they are after a run."""
    return f"{PRESENT}{layer}.{part}"
