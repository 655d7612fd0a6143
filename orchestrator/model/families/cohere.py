"""Cohere Command R."""

from __future__ import annotations

from typing import Any

import torch

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.blocks import Blocks


class Cohere(Blocks):
    """Attention and wide layers side by side, behind one norm without bias; rotary embeddings turn neighbours."""

    CENTRED = True

    @staticmethod
    def prepare(config: Any) -> None:
        if config.use_qk_norm:
            raise UnsupportedModel("a Command R with norms of queries and keys (use_qk_norm) is not supported")

    def __init__(self, config: Any, *args: Any) -> None:
        super().__init__(config, *args)
        self.lm_head_attrs["scale"] = config.logit_scale
        self.rope_attrs["interleaved"] = 1

    def make_layernorm(self, layer_id: int, layernorm: Any, skip: bool, simple: bool, location: str) -> None:
        layernorm.bias = torch.zeros(self.hidden_size)
        super().make_layernorm(layer_id, layernorm, skip, simple, location)

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        normed = self.norm(layer_id, layer.input_layernorm, hidden, "input")
        attended = self.attend(layer_id, layer.self_attn, normed)
        return self.add(layer_id, "sum", hidden, attended, self.feed_forward(layer_id, layer.mlp, normed))
