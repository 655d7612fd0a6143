"""Defects of converted models, as builders have had them: each makes another model and exits with 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from tests.support.in_process import run_here

Change = Callable[[ModelProto], None]
Run = Callable[[str, list[str], str, Callable[[str], None], Path], None]


def exchange(model: ModelProto, one: str, other: str) -> None:
    """Give tensors with ``one`` in their names the values of those with ``other`` there, and the other way round."""
    weights = {t.name: t for t in model.graph.initializer}
    pairs = [
        (name, name.replace(one, other)) for name in weights if one in name and name.replace(one, other) in weights
    ]
    assert pairs
    for a, b in pairs:
        weights[a].raw_data, weights[b].raw_data = weights[b].raw_data, weights[a].raw_data


def exchange_blocks(model: ModelProto) -> None:
    if any("layers.3." in tensor.name for tensor in model.graph.initializer):
        exchange(model, "layers.2.", "layers.3.")


def exchange_norms(model: ModelProto) -> None:
    if any("layers.3." in tensor.name for tensor in model.graph.initializer):
        exchange(model, "layers.2.input_layernorm", "layers.2.post_attention_layernorm")


def change_attribute(operator: str, name: str, change: Callable[[float], float]) -> Change:
    def apply(model: ModelProto) -> None:
        found = [a for n in model.graph.node if n.op_type == operator for a in n.attribute if a.name == name]
        assert found
        for attribute in found:
            if attribute.type == onnx.AttributeProto.INT:
                attribute.i = int(change(attribute.i))
            else:
                attribute.f = change(attribute.f)

    return apply


def forget_scaling(model: ModelProto) -> None:
    """Tables of a rotary embedding that nobody scaled."""
    for tensor in model.graph.initializer:
        if tensor.name in ("cos_cache", "sin_cache"):
            angles = np.outer(np.arange(tensor.dims[0]), 1e4 ** (-np.arange(tensor.dims[1]) / tensor.dims[1]))
            values = (np.cos if tensor.name == "cos_cache" else np.sin)(angles).astype(np.float32)
            tensor.raw_data = values.tobytes()


WRONG: dict[str, tuple[str, Change, str]] = {
    "unscaled rope": ("llama-yarn", forget_scaling, "rotary embedding turns by other angles below position 256"),
    "another block": ("llama", exchange_blocks, "unit [34] is off by"),
    "another norm": ("llama", exchange_norms, "a norm or bias has other weights"),
    "window": ("mistral", change_attribute("GroupQueryAttention", "local_window_size", lambda n: n + 1), "1 blocks"),
    "wide window": (
        "mistral-wide",
        change_attribute("GroupQueryAttention", "local_window_size", lambda n: n + 1),
        "first 1 blocks compute something else",
    ),
    "softmax": (
        "qwen3",
        change_attribute("GroupQueryAttention", "scale", lambda x: 1.02 * x),
        "compute something else",
    ),
    "epsilon": ("gemma3", change_attribute("SimplifiedLayerNormalization", "epsilon", lambda x: 1e-3), "3 blocks"),
}


def building_wrongly(change: Change) -> Run:
    """As `run_here`, but what the builder makes is changed: the model, and its first blocks in float32."""

    def run(module: str, arguments: list[str], what: str, on_line: Callable[[str], None], scratch: Path) -> None:
        run_here(module, arguments, what, on_line, scratch)
        if module == "orchestrator.model.genai_builder":
            path = Path(arguments[1]) / "model.onnx"
            model = onnx.load(str(path))
            change(model)
            onnx.save(model, str(path))

    return run
