"""Mistral, Ministral 3."""

from __future__ import annotations

from typing import Any

from onnxruntime_genai.models import builder

from orchestrator.model.families.settings import window_everywhere


class Mistral(builder.MistralModel):  # type: ignore[misc]
    """All layers have the window, if there is one."""

    prepare = staticmethod(window_everywhere)


class Ministral3(Mistral):
    """Past the length that it was trained with, queries are scaled by their position: there it ends."""

    @staticmethod
    def prepare(config: Any) -> None:
        window_everywhere(config)
        rope = config.rope_parameters
        if rope.get("llama_4_scaling_beta"):
            config.max_position_embeddings = rope["original_max_position_embeddings"]
