"""The KV cache of a segment: one preallocated buffer per layer and part, shared by past and present.

GroupQueryAttention writes new rows in place when past and present are the same buffer, so a decode step copies
nothing. Pages of a slot become resident only when rows are written to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.messages import KvLayer


@dataclass(frozen=True, slots=True)
class KvBuffer:
    """One layer's keys or values: ``data`` is (slots, kv_heads, context, head_dim)."""

    past_name: str
    present_name: str
    data: NDArray[Any]

    def slot_pointer(self, slot: int) -> int:
        """Address of a slot's first row."""
        return int(self.data.ctypes.data) + slot * int(self.data.strides[0])

    def shape_of(self, slots: int) -> tuple[int, ...]:
        """(slots, kv_heads, context, head_dim): what the session sees of neighbouring slots."""
        return (slots, *self.data.shape[1:])


class KvCache:
    """All buffers of a segment."""

    def __init__(
        self, layers: Sequence[KvLayer], *, slots: int, context_tokens: int, dtypes: Mapping[str, Any]
    ) -> None:
        """``dtypes``: element type by input name."""
        self.buffers = tuple(
            KvBuffer(
                past_name=f"past_key_values.{layer.layer}.{part}",
                present_name=f"present.{layer.layer}.{part}",
                # zeros, not empty: calloc gives untouched pages, and no stale value can ever be read
                data=np.zeros(
                    (slots, layer.kv_heads, context_tokens, width), dtypes[f"past_key_values.{layer.layer}.{part}"]
                ),
            )
            for layer in layers
            for part, width in (("key", layer.key_dim), ("value", layer.value_dim))
        )
