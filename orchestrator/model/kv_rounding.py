"""Keys and values in int8: the scales they are rounded by, and a segment's graph that keeps them so.

ONNX Runtime's attention rounds new rows as it writes them into the cache, and reads the rounded ones: a value is the
number that is kept times the scale of its channel. Scales belong to the graph, so that all who have it agree.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model.attention import is_attention
from orchestrator.model.graph import PAST_NAME
from schemas.segment_tensors import KV_PARTS, past, present

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

MOST = 127
"""The largest number that is kept."""
_FIRST_SCALES = 12
"""The input of attention with the scales of keys; those of values follow."""
_DIGITS = 12


@dataclass(frozen=True)
class LayerScales:
    """Of one block, [kv_heads x dim] each: what a step of the rounding is worth, by channel."""

    layer: int
    heads: int
    key: tuple[float, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class KvScales:
    """Of all blocks that keep keys and values."""

    layers: tuple[LayerScales, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Stands for these scales: rows that were rounded by others mean something else."""
        return hashlib.sha256(repr(self.layers).encode()).hexdigest()[:_DIGITS]

    def arrays(self, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Those of keys and of values of one layer, [1, kv_heads, 1, dim] each."""
        import numpy as np

        found = next(one for one in self.layers if one.layer == layer)
        keys, values = (np.array(part, np.float32).reshape(1, found.heads, 1, -1) for part in (found.key, found.value))
        return keys, values


def round_caches(model: ModelProto, scales: KvScales) -> None:
    """Have the attention of a segment's graph keep keys and values in int8."""
    from onnx import TensorProto, helper, numpy_helper

    rounded = set()
    for node in model.graph.node:
        if not is_attention(node):
            continue
        found = PAST_NAME.match(node.input[3])
        assert found
        layer = int(found[1])
        node.input.extend([""] * (_FIRST_SCALES - len(node.input)))
        for part, values in zip(KV_PARTS, scales.arrays(layer), strict=True):
            name = f"{past(layer, part)}/scales"
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            node.input.append(name)
            node.attribute.append(helper.make_attribute(f"{part[0]}_quant_type", "PER_CHANNEL"))
            rounded |= {past(layer, part), present(layer, part)}
        node.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))
    for info in (*model.graph.input, *model.graph.output):
        if info.name in rounded:
            info.type.tensor_type.elem_type = TensorProto.INT8
