"""Names of a segment's inputs and outputs: the orchestrator makes the graph, the nodes bind it.

Those of a whole decoder (ids, mask, positions, KV cache, logits) are the ones that exporters give them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

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
"""What attention keeps of each position, by part."""
CONV_PART: Final = "conv"
"""What a short convolution keeps of each position: its input, since the next outputs look back at it."""
STATE_PARTS = ("conv_state", "recurrent_state")
"""What a gated delta rule keeps of all positions together: the last inputs of its convolution, and its own state."""
STATE_COPIES = 3
"""A node keeps the state of a text as it was at so many positions."""
STATE_PIECE_VALUES = 1024
"""States travel in pieces of so many values."""
PAST, PRESENT = "past_key_values.", "present."
KERNELS: Final = "kernels"
"""Of the graph's metadata: names of the kernels that it has ONNX Runtime use."""
KERNELS_BETWEEN: Final = ","


class StateShape(Protocol):
    """A state of a text, into which all of its positions are folded."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class CacheShape(Protocol):
    """What a decoder block keeps: of each position keys and values, or with a ``conv_dim`` a convolution's input; with
    ``states`` nothing of a position, but these of all of them together.
    """

    @property
    def kv_heads(self) -> int: ...

    @property
    def key_dim(self) -> int: ...

    @property
    def value_dim(self) -> int: ...

    @property
    def conv_dim(self) -> int: ...

    @property
    def states(self) -> Sequence[StateShape]: ...


class CachePart(NamedTuple):
    """One of the tensors [B, heads, positions, dim] that a block keeps."""

    name: str
    heads: int
    dim: int


def cache_parts(layer: CacheShape) -> tuple[CachePart, ...]:
    """The tensors that a block keeps of each position, by the number that they have on the wire."""
    if layer.states:
        return ()
    if layer.conv_dim:
        return (CachePart(CONV_PART, 1, layer.conv_dim),)
    key, value = KV_PARTS
    return CachePart(key, layer.kv_heads, layer.key_dim), CachePart(value, layer.kv_heads, layer.value_dim)


def state_pieces(layer: CacheShape) -> list[int]:
    """How many values the pieces have that a block's states travel in, one behind the other, by number on the wire."""
    left = sum(math.prod(state.shape) for state in layer.states)
    whole, rest = divmod(left, STATE_PIECE_VALUES)
    return [STATE_PIECE_VALUES] * whole + ([rest] if rest else [])


def past(layer: int, part: str) -> str:
    """Name of the input with a part of what a layer keeps, as it is before a run."""
    return f"{PAST}{layer}.{part}"


def present(layer: int, part: str) -> str:
    """Name of the output with a part of what a layer keeps, as it is after a run."""
    return f"{PRESENT}{layer}.{part}"
