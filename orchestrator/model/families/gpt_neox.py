"""GPT-NeoX, Pythia."""

from __future__ import annotations

from typing import Any

from orchestrator.model.families.blocks import PlainNorms, linear


class GPTNeoX(PlainNorms):
    """Attention and wide layers side by side, each behind a norm of its own, or one after the other."""

    LAYER = "GPTNeoXLayer"

    def __init__(self, config: Any, *args: Any) -> None:
        super().__init__(config, *args)
        self.side_by_side = config.use_parallel_residual

    def final_norm(self, model: Any) -> Any:
        return model.gpt_neox.final_layer_norm

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        normed = self.norm(layer_id, layer.input_layernorm, hidden, "input")
        attended = self.attend(layer_id, layer.attention, normed)
        summed = self.add(layer_id, "attention_sum", attended, hidden)
        source = hidden if self.side_by_side else summed
        normed = self.norm(layer_id, layer.post_attention_layernorm, source, "post_attention")
        return self.add(layer_id, "mlp_sum", self.feed_forward(layer_id, layer.mlp, normed), summed)

    def make_mlp_unpacked(self, layer_id: int, mlp: Any, root_input: str) -> None:
        mlp.fc1, mlp.fc2 = mlp.dense_h_to_4h, mlp.dense_4h_to_h

    def make_attention_unpacked_regular(
        self, layer_id: int, attention: Any, qkv_linear: Any, root_input: str, **_: Any
    ) -> None:
        """Each head has its query, key and value one behind the other."""
        heads, dim = self.num_attn_heads, self.head_size
        weights = qkv_linear.weight.view(heads, 3, dim, -1)
        biases = None if qkv_linear.bias is None else qkv_linear.bias.view(heads, 3, dim)
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            bias = None if biases is None else biases[:, index].reshape(-1)
            setattr(attention, name, linear(weights[:, index].reshape(heads * dim, -1), bias))
