"""SmolLM3."""

from __future__ import annotations

from typing import Any

from onnxruntime_genai.models import builder


class SmolLM3(builder.SmolLM3Model):  # type: ignore[misc]
    """Some layers have no rotary embedding; the builder would add one outside of attention."""

    def make_attention(self, layer_id: int, attention: Any, root_input: str, **others: Any) -> Any:
        rotates, self.attention_attrs["rope"] = self.attention_attrs["rope"], bool(self.no_rope_layers[layer_id])
        try:
            return super().make_attention(layer_id, attention, root_input, **others)
        finally:
            self.attention_attrs["rope"] = rotates
