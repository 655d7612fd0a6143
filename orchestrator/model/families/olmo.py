"""OLMo 1, 2 and 3."""

from __future__ import annotations

from typing import Any

from onnxruntime_genai.models import builder

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.blocks import Blocks


class Olmo(builder.OLMoModel):  # type: ignore[misc]
    """Norms without weights that subtract the mean, which the builder leaves out."""

    @staticmethod
    def prepare(config: Any) -> None:
        if config.clip_qkv is not None:
            raise UnsupportedModel(
                "an OLMo that clips queries, keys and values (clip_qkv) is not supported; take OLMo 2"
            )

    def make_layernorm(self, layer_id: int, layernorm: Any, skip: bool, simple: bool, location: str) -> None:
        self.layernorm_attrs["epsilon"] = 1e-5  # which is in no configuration
        super().make_layernorm(layer_id, layernorm, skip, False, location)


class Olmo2(Blocks):
    """Norms behind attention and the wide layers; queries and keys have norms over all heads together."""

    def make_attention_init(self, config: Any) -> None:
        self.attention_attrs["q_norm"] = self.attention_attrs["k_norm"] = True
        super().make_attention_init(config)

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        attended = self.attend(layer_id, layer.self_attn, hidden)
        normed = self.norm(layer_id, layer.post_attention_layernorm, attended, "post_attention")
        hidden = self.add(layer_id, "attention_sum", hidden, normed)
        widened = self.feed_forward(layer_id, layer.mlp, hidden)
        normed = self.norm(layer_id, layer.post_feedforward_layernorm, widened, "post_feedforward")
        return self.add(layer_id, "mlp_sum", hidden, normed)

    def make_qk_norm(self, layer_id: int, attention: Any) -> None:
        for path, module, width in (
            ("q", attention.q_norm, self.q_size),
            ("k", attention.k_norm, self.kv_size),
        ):
            weight = f"model.layers.{layer_id}.self_attn.{path}_norm.weight"
            name = f"/model/layers.{layer_id}/attn/{path}_norm/SimplifiedLayerNormalization"
            self.make_initializer(module.weight, weight, to=self.io_dtype)
            self.make_node(
                "SimplifiedLayerNormalization",
                inputs=[self.attention_attrs[f"{path}_path"], weight],
                outputs=[f"{name}/output_0"],
                name=name,
                epsilon=self.layernorm_attrs["epsilon"],
                axis=-1,
                stash_type=1,
            )
            self.make_value(f"{name}/output_0", self.io_dtype, shape=["batch_size", "sequence_length", width])
            self.attention_attrs[f"{path}_path"] = f"{name}/output_0"


class Olmo3(Olmo2):
    """With windows in some layers, whose rotary embedding is not scaled where that of the others is."""

    def __init__(self, config: Any, *args: Any) -> None:
        super().__init__(config, *args)
        self.scaled_theta = self.rope_attrs["theta"]
        self.unscaled_theta = config.rope_local_base_freq
        self.have_tables: set[str] = set()

    def make_rotary_embedding_caches(self, **_: str) -> Any:
        kind = "global" if self.window_size == -1 else "local"
        self.rope_attrs["create_caches"] = kind not in self.have_tables
        self.rope_attrs["theta"] = self.scaled_theta if kind == "global" else self.unscaled_theta
        self.have_tables.add(kind)
        cos, sin = f"cos_cache_{kind}", f"sin_cache_{kind}"
        return super().make_rotary_embedding_caches(cos_cache_name=cos, sin_cache_name=sin)
