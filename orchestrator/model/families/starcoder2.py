"""StarCoder2."""

from __future__ import annotations

from typing import Any

from orchestrator.model.families.blocks import PlainNorms
from orchestrator.model.families.settings import window_everywhere


class StarCoder2(PlainNorms):
    """As GPT-2 but with rotary embeddings, grouped heads and a window."""

    prepare = staticmethod(window_everywhere)

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        normed = self.norm(layer_id, layer.input_layernorm, hidden, "input")
        hidden = self.add(layer_id, "attention_sum", hidden, self.attend(layer_id, layer.self_attn, normed))
        layer.mlp.fc1, layer.mlp.fc2 = layer.mlp.c_fc, layer.mlp.c_proj
        normed = self.norm(layer_id, layer.post_attention_layernorm, hidden, "post_attention")
        return self.add(layer_id, "mlp_sum", hidden, self.feed_forward(layer_id, layer.mlp, normed))
