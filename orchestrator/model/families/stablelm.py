"""StableLM."""

from __future__ import annotations

from typing import Any

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.blocks import Blocks


class StableLm(Blocks):
    """Norms that subtract the mean around attention and gated layers, one after the other or side by side."""

    CENTRED = True

    @staticmethod
    def prepare(config: Any) -> None:
        if config.qk_layernorm:
            raise UnsupportedModel("a StableLM with norms of queries and keys (qk_layernorm) is not supported")

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        normed = self.norm(layer_id, layer.input_layernorm, hidden, "input")
        summed = self.add(layer_id, "attention_sum", hidden, self.attend(layer_id, layer.self_attn, normed))
        if layer.post_attention_layernorm is not None:
            normed = self.norm(layer_id, layer.post_attention_layernorm, summed, "post_attention")
        return self.add(layer_id, "mlp_sum", summed, self.feed_forward(layer_id, layer.mlp, normed))
