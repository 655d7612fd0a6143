"""Runs onnxruntime-genai's model builder with what it needs to understand the configurations transformers 5 gives it.

Run as ``python -m orchestrator.model.genai_builder HF_FOLDER OUT CACHE PRECISION [KEY=VALUE ...]``, in a process of its
own because it holds the whole checkpoint in memory.
"""

from __future__ import annotations

import sys
from typing import Any

WINDOW_ON_ALL_LAYERS = ("mistral", "phi3")


def flatten_rope(config: Any) -> None:
    """Give a configuration with one RoPE per attention type (Gemma 3) the form the builder reads.

    transformers 5 keeps ``rope_parameters = {"full_attention": {...}, "sliding_attention": {...}}``; the builder
    expects the full one at the top and the sliding one's base frequency as ``rope_local_base_freq``.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict) or "full_attention" not in parameters:
        return
    sliding = parameters.get("sliding_attention", {})
    if sliding.get("rope_type", "default") != "default":
        raise NotImplementedError(f"sliding-window layers with {sliding['rope_type']} RoPE are not supported")
    config.rope_local_base_freq = sliding.get("rope_theta", 10_000.0)
    config.rope_parameters = dict(parameters["full_attention"])
    config.rope_theta = config.rope_parameters.get("rope_theta", 1_000_000.0)


def spell_out_windows(config: Any) -> None:
    """Name the sliding-window layers where the model takes them as understood (Mistral, Phi-3: all of them)."""
    window = getattr(config, "sliding_window", None)
    if config.model_type in WINDOW_ON_ALL_LAYERS and window and getattr(config, "layer_types", None) is None:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers


def settle_long_rope(config: Any) -> None:
    """Keep the builder from taking a Phi-3 for a LongRoPE one only because its context was configured shorter."""
    rope = getattr(config, "rope_parameters", None) or {}
    if hasattr(config, "original_max_position_embeddings") and rope.get("rope_type", "default") == "default":
        config.original_max_position_embeddings = config.max_position_embeddings


def scale_full_attention_only(builder: Any) -> None:
    """Gemma 3's linear RoPE scaling is for its full-attention layers; the builder would scale the other table too."""
    make = builder.Gemma2Model.make_rotary_embedding_caches

    def make_unscaled_if_local(self: Any, **names: str) -> Any:
        if not names.get("cos_cache_name", "").endswith("_local"):
            return make(self, **names)
        factors, self.rope_attrs["rescale_factors"] = self.rope_attrs["rescale_factors"], 1
        try:
            return make(self, **names)
        finally:
            self.rope_attrs["rescale_factors"] = factors

    builder.Gemma2Model.make_rotary_embedding_caches = make_unscaled_if_local


def build(checkpoint: str, out: str, cache: str, precision: str, options: list[str]) -> None:
    """Convert the Hugging Face folder ``checkpoint`` into an ONNX decoder for the CPU in the folder ``out``."""
    from onnxruntime_genai.models import builder

    parsed = builder.parse_extra_options(None, checkpoint, out, precision, "cpu", cache, options)
    config = parsed["hf_details"]["hf_config"]
    flatten_rope(config)
    spell_out_windows(config)
    settle_long_rope(config)
    scale_full_attention_only(builder)
    builder.create_model(None, checkpoint, out, precision, "cpu", cache, **parsed)


if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
