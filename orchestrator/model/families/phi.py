"""Phi-1, Phi-2, Phi-3, and Phi-4-mini, which is a Phi-3 that turns a part of each head."""

from __future__ import annotations

from typing import Any

from onnxruntime_genai.models import builder

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.blocks import PlainNorms
from orchestrator.model.families.settings import window_everywhere


class Phi(PlainNorms):
    """Attention and wide layers side by side, behind one norm."""

    @staticmethod
    def prepare(config: Any) -> None:
        if config.qk_layernorm:
            raise UnsupportedModel("a Phi with norms of queries and keys (qk_layernorm) is not supported; take Phi-2")

    def final_norm(self, model: Any) -> Any:
        return model.model.final_layernorm

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        normed = self.norm(layer_id, layer.input_layernorm, hidden, "input")
        attended = self.attend(layer_id, layer.self_attn, normed)
        return self.add(layer_id, "sum", attended, self.feed_forward(layer_id, layer.mlp, normed), hidden)


class Phi3(builder.Phi3MiniModel):  # type: ignore[misc]
    """All layers have the window, if there is one."""

    prepare = staticmethod(window_everywhere)
