"""Qwen3.5: blocks with a gated delta rule (gated DeltaNet), and blocks with attention whose output is gated."""

from __future__ import annotations

import sys
from typing import Any

from onnxruntime_genai.models import builder

from schemas.segment_tensors import STATE_PARTS, past, present

_THEIRS: Any = vars(sys.modules[builder.Qwen35Model.__module__])["Qwen35TextModel"]
_OF_IMAGES = ("mrope_section", "mrope_interleaved")


class Qwen35(_THEIRS):  # type: ignore[misc]
    """The language model alone: in a text the three positions that rotary tables are made for are one and the same.

    A block with a delta rule has two states, that of its convolution and that of the rule, into which all positions
    are folded (decision 28).
    """

    @staticmethod
    def prepare(config: Any) -> None:
        config.rope_parameters = {k: v for k, v in config.rope_parameters.items() if k not in _OF_IMAGES}

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        for part, key in zip(STATE_PARTS, ("conv", "recurrent"), strict=True):
            inputs, outputs = self.input_names[f"past.{key}"], self.output_names[f"present.{key}"]
            inputs.update({layer: past(layer, part) for layer in inputs})
            outputs.update({layer: present(layer, part) for layer in outputs})

    def is_fused_rope_supported(self) -> bool:
        """Attention itself turns vectors only in multiples of 16 dimensions."""
        return int(self.head_size * self.rope_attrs["partial_rotary_factor"]) % 16 == 0

    def make_inputs_and_outputs(self) -> None:
        super(_THEIRS, self).make_inputs_and_outputs()  # position ids of a text

    def load_weights(self, input_path: str) -> Any:
        """Vectors in float32: one is added to norms, decays are powers, and either would be rounded in halves."""
        model = super().load_weights(input_path)
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.data = weight.data.float()
        return model
