"""Rounded keys and values: of each block in float16, or in int8 with scales; a segment's graph that keeps them so.

ONNX Runtime's attention for int8 rounds new rows as it writes them into the cache, and reads the rounded ones: a value
is the number that is kept times the scale of its channel. Scales belong to the graph, so that all who have it agree.

Most of what attention looks at is a text's first position, whose values are small and hardly depend on the text. A
rounding made for the values of others would be coarse there. So values are kept less what the first ones usually are,
which is added to what comes out: attention gives a mean of them, so that nothing else changes.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model.attention import is_attention
from orchestrator.model.graph import PAST_NAME
from orchestrator.model.rewrite import replace_nodes
from schemas.codec import HALVES
from schemas.segment_tensors import KV_PARTS, past, present

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

MOST = 127
"""The largest number that is kept."""
_FLOATS = (0, 1, 2, 7, 8, 10, 11)
"""The inputs of attention that have the type it computes in: queries, keys, values, tables of positions, biases."""
_VALUES, _PAST_KEY, _FIRST_SCALES = 2, 3, 12
"""The inputs of attention with new values, with keys as they are before, and with the scales of keys; those of values
follow."""
_DIGITS = 12


@dataclass(frozen=True)
class LayerScales:
    """Of one block, [kv_heads x dim] each: what a step of the rounding is worth, by channel.

    ``usual``: what values are kept less.
    """

    layer: int
    heads: int
    key: tuple[float, ...]
    value: tuple[float, ...]
    usual: tuple[float, ...]

    def parts(self) -> tuple[NDArray[Any], ...]:
        """Of keys and of values, and what values are kept less, [1, kv_heads, 1, dim] each."""
        import numpy as np

        parts = (self.key, self.value, self.usual)
        return tuple(np.array(part, np.float32).reshape(1, self.heads, 1, -1) for part in parts)


@dataclass(frozen=True)
class KvRounding:
    """Of all blocks that keep keys and values: those of ``layers`` in int8 by these scales, the others in float16."""

    layers: tuple[LayerScales, ...] = ()

    @functools.cached_property
    def name(self) -> str:
        """Stands for all of it: rows that were rounded by other scales mean something else."""
        return hashlib.sha256(repr(self.layers).encode()).hexdigest()[:_DIGITS] if self.layers else HALVES

    def of(self, layer: int) -> LayerScales | None:
        """The scales of one block; None where it keeps halves."""
        return next((one for one in self.layers if one.layer == layer), None)

    def name_of(self, layer: int) -> str:
        """Stands for how one block rounds, as in `schemas.messages.KvLayer`."""
        return HALVES if self.of(layer) is None else self.name

    def dtype_of(self, layer: int) -> str:
        """What one block keeps, in the manifest's words."""
        return "float16" if self.of(layer) is None else "int8"


IN_HALVES = KvRounding()


def round_caches(model: ModelProto, rounding: KvRounding) -> None:
    """Have the attention of a segment's graph keep keys and values rounded."""
    from onnx import TensorProto

    infos = {info.name: info for info in (*model.graph.input, *model.graph.output)}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        found = PAST_NAME.match(node.input[_PAST_KEY]) if is_attention(node) else None
        if not found:
            nodes.append(node)
            continue
        layer = int(found[1])
        caches = [infos[name(layer, part)] for name in (past, present) for part in KV_PARTS]
        floats = caches[0].type.tensor_type.elem_type
        scales = rounding.of(layer)
        nodes += _by_scales(model.graph, node, scales, floats) if scales else _in_halves(node, floats)
        for info in caches:
            info.type.tensor_type.elem_type = TensorProto.INT8 if scales else TensorProto.FLOAT16
    replace_nodes(model.graph, nodes)


def _in_halves(node: NodeProto, floats: int) -> list[NodeProto]:
    """An attention that computes in float16 whatever comes as ``floats``, and gives these."""
    from onnx import NodeProto, TensorProto, helper

    if floats == TensorProto.FLOAT16:
        return [node]
    made = NodeProto()
    made.CopyFrom(node)
    casts = []
    for index in _FLOATS:
        name = made.input[index] if index < len(made.input) else ""
        if name:
            made.input[index] = f"{node.output[0]}/halves/{index}"
            casts.append(helper.make_node("Cast", [name], [made.input[index]], to=TensorProto.FLOAT16))
    made.output[0] = f"{node.output[0]}/halves"
    return [*casts, made, helper.make_node("Cast", [made.output[0]], [node.output[0]], to=floats)]


def _by_scales(graph: GraphProto, node: NodeProto, scales: LayerScales, floats: int) -> list[NodeProto]:
    """An attention that computes with ``floats`` and rounds; what is before and behind it."""
    import numpy as np
    from onnx import NodeProto, helper, numpy_helper

    made = NodeProto()
    made.CopyFrom(node)
    made.input.extend([""] * (_FIRST_SCALES - len(made.input)))
    layer, (keys, values, usual) = scales.layer, scales.parts()
    for part, steps in zip(KV_PARTS, (keys, values), strict=True):
        name = f"{past(layer, part)}/scales"
        graph.initializer.append(numpy_helper.from_array(steps, name))
        made.input.append(name)
        made.attribute.append(helper.make_attribute(f"{part[0]}_quant_type", "PER_CHANNEL"))
    made.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))

    heads = {attribute.name: attribute.i for attribute in node.attribute}
    per_head = usual[0, :, 0]
    before, behind = per_head.ravel(), np.repeat(per_head, heads["num_heads"] // len(per_head), axis=0).ravel()
    given = _VALUES
    if not node.input[_VALUES]:  # queries, keys and values lie side by side in the first input
        given = 0
        before = np.concatenate([np.zeros(len(behind) + len(before), np.float32), before])
    dtype = helper.tensor_dtype_to_np_dtype(floats)
    told = [f"{past(layer, KV_PARTS[1])}/{name}" for name in ("usual", "usual_behind")]
    for name, vector in zip(told, (before, behind), strict=True):
        graph.initializer.append(numpy_helper.from_array(vector.astype(dtype), name))
    less, result = f"{made.input[given]}/less_{layer}", made.output[0]
    subtract = helper.make_node("Sub", [made.input[given], told[0]], [less])
    made.input[given], made.output[0] = less, f"{result}/less"
    return [subtract, made, helper.make_node("Add", [made.output[0], told[1]], [result])]
