"""A builder whose blocks are written as sums, for families whose blocks onnxruntime-genai has not or has otherwise.

The builder's own blocks pass tensors on in attributes, and fuse each sum with the norm behind it. Here a block is a
function of the hidden state; ONNX Runtime fuses sums and norms when a segment is opened.
"""

from __future__ import annotations

from typing import Any

import torch
from onnxruntime_genai.models import builder


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    """A layer with this weight [out, in] and bias [out]."""
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer


class Blocks(builder.Model):  # type: ignore[misc]
    """A decoder whose blocks are what `make_block` says.

    Attributes:
        LAYER: what names of classes of blocks end with.
        CENTRED: do norms subtract the mean?
    """

    LAYER = "DecoderLayer"
    CENTRED = False

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self.layernorm_attrs["simple"] = not self.CENTRED

    def make_block(self, layer_id: int, layer: Any, hidden: str) -> str:
        """Make the nodes of a block of the hidden state [B, S, W]; the tensor with the next one."""
        raise NotImplementedError

    def final_norm(self, model: Any) -> Any:
        """The module behind the last block."""
        return model.model.norm

    def is_fused_rope_supported(self) -> bool:
        """Attention itself turns vectors only in multiples of 16 dimensions."""
        return int(self.head_size * self.rope_attrs["partial_rotary_factor"]) % 16 == 0

    def is_packed_matmul_supported(self) -> bool:
        return self.is_fused_rope_supported() and super().is_packed_matmul_supported()

    def is_layer(self, module: Any) -> bool:
        return type(module).__name__.endswith(self.LAYER)

    def has_final_norm(self, module: Any, model: Any) -> bool:
        return module is self.final_norm(model)

    def make_layer(self, layer_id: int, layer: Any) -> None:
        self.layernorm_attrs["root_input"] = self.make_block(layer_id, layer, self.layernorm_attrs["root_input"])
        self.layernorm_attrs["first_layernorm"] = False
        self.layernorm_attrs["last_layernorm"] = layer_id == self.num_layers - 1

    def make_layernorm(self, layer_id: int, layernorm: Any, skip: bool, simple: bool, location: str) -> None:
        super().make_layernorm(layer_id, layernorm, False, simple, location)

    def norm(self, layer_id: int, module: Any, hidden: str, location: str) -> str:
        """A norm of the hidden state; ``location`` is its name in the checkpoint, less "_layernorm"."""
        before = self.layernorm_attrs["root_input"]
        self.layernorm_attrs["root_input"] = hidden
        self.make_layernorm(layer_id, module, False, self.layernorm_attrs["simple"], location)
        self.layernorm_attrs["root_input"] = before
        return str(self.layernorm_attrs["output_0"])

    def attend(self, layer_id: int, module: Any, hidden: str) -> str:
        """Attention of the hidden state, with its projections."""
        self.make_attention(layer_id, module, root_input=hidden)
        return str(self.layernorm_attrs["skip_input"])

    def feed_forward(self, layer_id: int, module: Any, hidden: str) -> str:
        """The wide layers between two sums."""
        self.make_mlp(layer_id, module, root_input=hidden)
        return str(self.layernorm_attrs["skip_input"])

    def add(self, layer_id: int, name: str, *hidden: str) -> str:
        """The sum of hidden states, two at a time from the left."""
        total = hidden[0]
        for index, summand in enumerate(hidden[1:]):
            node = f"/model/layers.{layer_id}/{name}/Add{index or ''}"
            self.make_add(node, [total, summand], dtype=self.io_dtype, shape=self.make_hidden_state_shape())
            total = f"{node}/output_0"
        return total


class PlainNorms(Blocks):
    """With norms that subtract the mean and have a bias, and wide layers ``fc1`` and ``fc2`` without a gate."""

    CENTRED = True

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self.mlp_attrs["use_proj"], self.mlp_attrs["use_fc"] = False, True
