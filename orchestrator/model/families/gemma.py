"""Gemma 1, 2 and 3: embeddings are multiplied by the root of their width, which the builder rounds to two digits."""

from __future__ import annotations

import math
from typing import Any

from onnxruntime_genai.models import builder


class _ExactScale(builder.Model):  # type: ignore[misc]
    """The factor of embeddings as float32 has it, which is what transformers multiplies by in float32."""

    def __init__(self, config: Any, *args: Any) -> None:
        super().__init__(config, *args)
        self.embed_attrs["scale"] = math.sqrt(config.hidden_size)


class Gemma(_ExactScale, builder.GemmaModel):  # type: ignore[misc]
    """The first one."""


class Gemma2(_ExactScale, builder.Gemma2Model):  # type: ignore[misc]
    """With norms on both sides, soft caps, and windows in every other layer."""


class Gemma3(_ExactScale, builder.Gemma3Model):  # type: ignore[misc]
    """With norms of queries and keys, and a rotary embedding of its own for layers with a window."""
