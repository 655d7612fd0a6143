"""HunYuan dense."""

from __future__ import annotations

from typing import Any

from onnxruntime_genai.models import builder


class HunYuan(builder.HunyuanDenseV1Model):  # type: ignore[misc]
    """A rotary embedding that calls itself dynamic has another base, and the same at every length."""

    @staticmethod
    def prepare(config: Any) -> None:
        rope = config.rope_parameters
        if rope.get("rope_type") == "dynamic" and rope.get("alpha"):
            dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            base = rope["rope_theta"] * rope["alpha"] ** (dim / (dim - 2))
            config.rope_parameters = {"rope_type": "default", "rope_theta": base}
