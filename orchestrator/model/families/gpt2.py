"""GPT-2."""

from __future__ import annotations

from typing import Any

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.blocks import PlainNorms, linear


class GPT2(PlainNorms):
    """Positions are learned rows that are added to embeddings; weights of layers are kept as [in, out]."""

    LAYER = "GPT2Block"

    @staticmethod
    def prepare(config: Any) -> None:
        if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
            raise UnsupportedModel("a GPT-2 with another scale of attention is not supported; take Pythia")
        config.intermediate_size = config.n_inner or 4 * config.n_embd
        config.hidden_act = config.activation_function

    def make_attention_init(self, config: Any) -> None:
        super().make_attention_init(config)
        self.attention_attrs["rope"] = False

    def is_fused_rope_supported(self) -> bool:
        return False  # so that there are position ids

    def is_packed_matmul_supported(self) -> bool:
        return True

    def final_norm(self, model: Any) -> Any:
        return model.transformer.ln_f

    def make_embedding(self, embedding: Any) -> None:
        rows = self.weights.transformer.wpe.weight
        if embedding is rows:
            return
        super().make_embedding(embedding)
        weight, gather = "transformer.wpe.weight", "/model/embed_positions/Gather"
        self.make_initializer(rows, weight, to=self.io_dtype)
        inputs = [weight, self.input_names["position_ids"]]
        self.make_gather(gather, inputs, dtype=self.io_dtype, shape=self.make_hidden_state_shape(), axis=0)
        hidden, total = self.layernorm_attrs["root_input"], "/model/embed_positions/Add"
        shape = self.make_hidden_state_shape()
        self.make_add(total, [hidden, f"{gather}/output_0"], dtype=self.io_dtype, shape=shape)
        self.layernorm_attrs["root_input"] = f"{total}/output_0"

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        attention, mlp = layer.attn, layer.mlp
        weights, biases = attention.c_attn.weight.T.chunk(3), attention.c_attn.bias.chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            setattr(attention, name, linear(weight, bias))
        attention.o_proj = linear(attention.c_proj.weight.T, attention.c_proj.bias)
        mlp.fc1, mlp.fc2 = (linear(m.weight.T, m.bias) for m in (mlp.c_fc, mlp.c_proj))
        normed = self.norm(layer_id, layer.ln_1, hidden, "input")
        hidden = self.add(layer_id, "attention_sum", hidden, self.attend(layer_id, attention, normed))
        normed = self.norm(layer_id, layer.ln_2, hidden, "post_attention")
        return self.add(layer_id, "mlp_sum", hidden, self.feed_forward(layer_id, mlp, normed))
