"""Families that are Llama but for one thing."""

from __future__ import annotations

from typing import Any

from onnxruntime_genai.models import builder


class Arcee(builder.NemotronModel):  # type: ignore[misc]
    """Wide layers without a gate, as Nemotron's; norms are Llama's."""

    def __init__(self, config: Any, *args: Any) -> None:
        super().__init__(config, *args)
        self.layernorm_attrs["simple"], self.layernorm_attrs["add_offset"] = True, 0
