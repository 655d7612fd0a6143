"""An ONNX decoder as the splitter sees it: steps, tensors, and which of them depend on tokens.

Expected layout (what the onnxruntime-genai builder and the exports on the Hugging Face hub share)::

    inputs   input_ids [B, S]   attention_mask [B, T]   position_ids [B, S] (optional)
             past_key_values.N.key|value [B, heads, past, head_dim], of a block with a short convolution
             past_key_values.N.conv [B, 1, past, W], of one with a gated delta rule
             past_key_values.N.conv_state [B, C, K - 1] and .recurrent_state [B, heads, key_dim, value_dim]
    outputs  logits [B, S, V]   present.N.* of the same names

Two ideas carry the analysis:

* The **cheap cone**: nodes that depend on masks, positions, shapes and weights but on no token's value (sequence
  lengths, cos/sin tables). They are recomputed wherever they are needed and never cross a boundary. Everything else
  is a *core* step.
* A fused skip-normalisation ``y, s = SkipNorm(a, b)`` counts as two core steps, ``s = a + b`` and ``y = norm(s)``, so
  that the single residual tensor ``s`` between them shows up as a place to cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.model.errors import BrokenModel, UnsplittableGraph
from orchestrator.model.shapes import TensorType, tensor_types
from schemas.segment_tensors import (
    CONV_PART,
    IDS,
    KV_PARTS,
    LOGITS,
    MASK,
    PAST,
    POSITIONS,
    STATE_PARTS,
    past,
    present,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

PAST_NAME = re.compile(rf"{re.escape(PAST)}(\d+)\.({'|'.join((*KV_PARTS, CONV_PART, *STATE_PARTS))})$")
SEQUENCE_INPUTS = (IDS, MASK, POSITIONS)
_READERS = dict.fromkeys(KV_PARTS, ("GroupQueryAttention", "Shape")) | {
    CONV_PART: ("GatherND", "ScatterND", "Shape"),
    STATE_PARTS[0]: ("CausalConvWithState",),
    STATE_PARTS[1]: ("LinearAttention",),
}
"""What may read a part of a cache: rows stay where they are, new ones are written behind them, states become others."""
FUSED_SKIP_NORMS = ("SkipSimplifiedLayerNormalization", "SkipLayerNormalization")
NORMS = (*FUSED_SKIP_NORMS, "SimplifiedLayerNormalization", "LayerNormalization", "RMSNormalization")


@dataclass(frozen=True)
class Step:
    """One piece that lands in one unit: a whole node, or half of a fused skip-normalisation."""

    node: int
    part: str  # "whole", "add" or "norm"
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """A decoder graph with its dependencies resolved; ``model`` holds no weights beyond the inline ones."""

    model: ModelProto
    folder: Path
    initializers: dict[str, TensorProto]
    types: dict[str, TensorType]
    core: tuple[Step, ...]  # in a tight topological order: each step as late as its layer allows
    cheap_producer: dict[str, int]  # tensor -> node, for the cheap cone
    parts: dict[int, tuple[str, ...]]  # what each layer keeps, by name, in order of layers

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that keep something of each position, or of all."""
        return tuple(self.parts)

    def op(self, step: Step) -> str:
        """The operator type of the step's node."""
        return str(self.model.graph.node[step.node].op_type)

    def weight_shape(self, name: str) -> tuple[int, ...]:
        """Dimensions of a weight, looked for through a Cast; () if ``name`` is not one."""
        while name not in self.initializers:
            node = self.model.graph.node[self.cheap_producer[name]] if name in self.cheap_producer else None
            if node is None or node.op_type != "Cast":
                return ()
            name = node.input[0]
        return tuple(self.initializers[name].dims)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(i.name for i in self.model.graph.input)


def read_model(path: Path) -> ModelProto:
    """Parse ``path``; weights stay on disk.

    Raises:
        BrokenModel: the file is not an ONNX model, or points at weights outside its own folder.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, or whatever its parser trips over
        raise BrokenModel(f"{path} cannot be read as an ONNX model: {error}") from error
    if not model.graph.node:
        raise BrokenModel(f"{path} is not an ONNX model, or an empty one")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            place = Path(entry.value)
            if entry.key == "location" and (place.is_absolute() or ".." in place.parts):
                raise BrokenModel(f"{path}: tensor {tensor.name!r} points outside its folder, at {entry.value!r}")
    return model


def copied(model: ModelProto) -> ModelProto:
    """A copy that can be changed; weights in files stay where they are."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def resolve(model: ModelProto, folder: Path) -> Decoder:
    """Build a `Decoder` from a parsed model whose external weights lie in ``folder``.

    Raises:
        UnsplittableGraph: its inputs or outputs are not those of a decoder with KV cache.
    """
    graph = model.graph
    initializers = {t.name: t for t in graph.initializer}
    parts = _check_interface(graph, initializers)
    types = tensor_types(model)
    steps = [step for index in range(len(graph.node)) for step in _steps_of(graph, index)]
    producer = {name: i for i, step in enumerate(steps) for name in step.outputs}
    tainted = _token_dependent(graph, steps, producer)
    steps = _close_partial_fusions(graph, steps, tainted)
    producer = {name: i for i, step in enumerate(steps) for name in step.outputs}
    for step in steps:
        if step.part == "add" and step.outputs[0] not in types and step.inputs[0] in types:
            types[step.outputs[0]] = types[step.inputs[0]]
    core_names = {n for s in steps if _is_core(graph, s, tainted) for n in s.outputs}
    cheap = {n: s.node for s in steps if not _is_core(graph, s, tainted) for n in s.outputs}
    order = _order_by_layer(steps, producer, core_names, parts)
    return Decoder(model, folder, initializers, types, tuple(order), cheap, parts)


def require_shared_caches(decoder: Decoder) -> None:
    """Check that nodes can run a decoder: they keep past and present in one buffer.

    Raises:
        UnsplittableGraph: a KV cache is read by something else than GroupQueryAttention; names the node.
    """
    for node in decoder.model.graph.node:
        cache = next((found for n in node_inputs(node) if (found := PAST_NAME.match(n))), None)
        if cache is not None and node.op_type not in _READERS[cache[2]]:
            raise UnsplittableGraph(
                f"node {node.name or node.output[0]!r} ({node.op_type}) reads {cache[0]}: nodes run attention by"
                " GroupQueryAttention only; add the checkpoint that the graph was exported from, or another export"
            )


def node_inputs(node: NodeProto) -> tuple[str, ...]:
    """Names a node reads, those captured by its sub-graphs (If, Loop) included."""
    names = [n for n in node.input if n]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names.extend(_captured(attribute.g))
    return tuple(dict.fromkeys(names))


def _captured(graph: GraphProto) -> Iterator[str]:
    local = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    for node in graph.node:
        yield from (n for n in node_inputs(node) if n not in local)
        local.update(node.output)
    yield from (o.name for o in graph.output if o.name not in local)


def _check_interface(graph: GraphProto, initializers: dict[str, TensorProto]) -> dict[int, tuple[str, ...]]:
    inputs = [i.name for i in graph.input if i.name not in initializers]
    outputs = {o.name for o in graph.output}
    for name in (IDS, MASK):
        if name not in inputs:
            raise UnsplittableGraph(f"the graph has no input {name!r} (it has {', '.join(inputs[:4])}, ...)")
    if LOGITS not in outputs:
        raise UnsplittableGraph("the graph has no output 'logits'")
    seen: dict[int, set[str]] = {}
    for name in inputs:
        match = PAST_NAME.match(name)
        if match:
            seen.setdefault(int(match[1]), set()).add(match[2])
        elif name not in SEQUENCE_INPUTS:
            raise UnsplittableGraph(f"the graph has an input {name!r} that is not known")
    if not seen:
        raise UnsplittableGraph("the graph has no KV cache inputs past_key_values.N.key and .value")
    parts: dict[int, tuple[str, ...]] = {
        layer: next((parts for parts in ((CONV_PART,), STATE_PARTS) if parts[0] in seen[layer]), KV_PARTS)
        for layer in sorted(seen)
    }
    for layer, kinds in parts.items():
        for kind in kinds:
            if kind not in seen[layer]:
                raise UnsplittableGraph(f"the graph has no input {past(layer, kind)}")
            if present(layer, kind) not in outputs:
                raise UnsplittableGraph(f"the graph has no output {present(layer, kind)}")
    return parts


def _steps_of(graph: GraphProto, index: int) -> tuple[Step, ...]:
    node = graph.node[index]
    outputs = tuple(n for n in node.output if n)
    # A bias would be a third summand: such a node stays whole, and the boundary carries both of its summands.
    bias_at = 3 if node.op_type == "SkipSimplifiedLayerNormalization" else 4
    has_bias = len(node.input) > bias_at and bool(node.input[bias_at])
    if node.op_type not in FUSED_SKIP_NORMS or has_bias:
        return (Step(index, "whole", node_inputs(node), outputs),)
    total = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.output[0]}/sum"
    add = Step(index, "add", (node.input[0], node.input[1]), (total,))
    norm_inputs = (total, *(n for n in node.input[2:] if n))
    return (add, Step(index, "norm", norm_inputs, tuple(n for n in outputs if n != total)))


def _token_dependent(graph: GraphProto, steps: list[Step], producer: dict[str, int]) -> set[str]:
    """Tensors whose values depend on a token or on the KV cache; a shape of either does not."""
    tainted = {i.name for i in graph.input if i.name == IDS or PAST_NAME.match(i.name)}
    for index in _topological(steps, producer):
        if _is_core(graph, steps[index], tainted):
            tainted.update(steps[index].outputs)
    return tainted


def _is_core(graph: GraphProto, step: Step, tainted: set[str]) -> bool:
    hit = [n for n in step.inputs if n in tainted]
    if graph.node[step.node].op_type == "Shape":
        # The shape of a graph input can be had from any segment's own inputs; an inner tensor's cannot.
        return any(n != IDS and not PAST_NAME.match(n) for n in hit)
    return bool(hit)


def _close_partial_fusions(graph: GraphProto, steps: list[Step], tainted: set[str]) -> list[Step]:
    """Put halves back together where one summand does not depend on tokens (no residual to cut at)."""
    closed: list[Step] = []
    for step in steps:
        node = graph.node[step.node]
        if step.part == "whole" or all(n in tainted for n in node.input[:2]):
            closed.append(step)
        elif step.part == "add":
            closed.append(Step(step.node, "whole", node_inputs(node), tuple(n for n in node.output if n)))
    return closed


def _topological(steps: list[Step], producer: dict[str, int]) -> list[int]:
    order: list[int] = []
    state = bytearray(len(steps))
    for root in range(len(steps)):
        _visit(root, steps, producer, state, order)
    return order


def _visit(root: int, steps: list[Step], producer: dict[str, int], state: bytearray, order: list[int]) -> None:
    """Depth-first post-order from ``root``, iterative because a decoder is thousands of nodes deep."""
    stack = [root]
    while stack:
        index = stack[-1]
        if state[index]:
            if state[index] == 1:
                state[index] = 2
                order.append(index)
            stack.pop()
            continue
        state[index] = 1
        inputs = reversed(steps[index].inputs)
        stack.extend(producer[n] for n in inputs if n in producer and not state[producer[n]])


def _order_by_layer(
    steps: list[Step], producer: dict[str, int], core_names: set[str], parts: dict[int, tuple[str, ...]]
) -> list[Step]:
    """Core steps, layer by layer: first what present.0 needs, then what present.1 needs on top, ... then logits.

    Nodes that only an unused tensor needs are left out.
    """
    order: list[int] = []
    state = bytearray(len(steps))
    roots = [present(layer, kind) for layer, kinds in parts.items() for kind in kinds]
    for name in (*roots, LOGITS):
        if name not in producer:
            raise UnsplittableGraph(f"the output {name!r} is computed by no node")
        _visit(producer[name], steps, producer, state, order)
    return [steps[i] for i in order if any(n in core_names for n in steps[i].outputs)]
