"""Build the ONNX graph of a segment: the units [start, stop) of a decoder.

A segment's interface (B batch, S new tokens, P past, T = total, W the boundary's width, V vocabulary)::

    inputs   input_ids [B, S] int64          if start == 0, else
             hidden [B, S, W]                the tensor of the boundary before ``start``; of a graph that takes halves
             hidden_halves [B, S, W] float16, hidden_scale [B, S, 1] float32: ``hidden`` is their product
             seqlens_k [B] int32, total_sequence_length [] int32
                                             if it has blocks with GroupQueryAttention: each T - 1, and the largest T
             attention_mask [B, T] int64     if its blocks need it for something else
             position_ids [B, S] int64       if its blocks need it
             attention_pads [6] int64, attention_end [1] int64
                                             of a graph with dummies in attention: (0, 0, 0, 0, their number, 0), and S
             past_key_values.N.key|value     of its own layers, N counted over the whole model; .conv where they have
                                             a short convolution: [B, 1, P, W] of room for the S new rows, too;
                                             .conv_state and .recurrent_state where they have a gated delta rule
             logit_positions [n] int64       if it has the head: indices into S, the head runs for these only
    outputs  hidden_out [B, S, W]            if it does not have the head (of a graph that gives halves, also
             halves_out [B, S, W] float16, squares_out [B, S, 1] float32: the sum of squares of each position), else
             logits [B, n, V]
             present.N.*                     of its own layers, of the same names as those of the past

A fused skip-normalisation is taken apart only where a boundary runs through it: upstream ``h = Add(a, b)``, downstream
the same kernel as ``SkipNorm(h, h - h)``. That equals the fused node to the bit, whereas a plain norm of ``h`` differs
in the last bits; so logits do not depend on where a model is cut. (In float16 the fused kernel adds in higher
precision than it stores. There the nodes between units are opened whether a boundary runs through them or not, so that
again the cuts make no difference; only the graph as it was converted rounds differently.)

GroupQueryAttention wants the lengths of its rows, which a converted graph computes from ``attention_mask``. Here they
are inputs, since every segment would compute them again in each step, from a mask whose shape changes in each step.

Dummies are positions of zeros behind the S new ones, in attention alone (`schemas.run_lengths`). With them T counts
them, too; B is 1.

Hidden states that travel as halves are converted in the graph where that costs least. The scale is a power of two, so
the product has the very bits that a node would compute; the squares tell it whether the halves will do as they are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from orchestrator.model.attention import FOLDS, dummies_inputs, is_attention, with_dummies
from orchestrator.model.cone import cheap_cone, outside_inputs
from orchestrator.model.errors import UnsplittableGraph, UnsupportedModel
from orchestrator.model.graph import PAST_NAME, SEQUENCE_INPUTS, Step
from orchestrator.model.kernels import tell_kernels
from orchestrator.model.kv_rounding import KvRounding, round_caches
from orchestrator.model.rotary import limit_tables
from orchestrator.model.shapes import FLOAT, FLOAT16
from orchestrator.model.split import Boundary, SplitPlan
from schemas import segment_tensors as tensors
from schemas.segment_tensors import (
    HALVES_IN,
    HALVES_OUT,
    HIDDEN_IN,
    HIDDEN_OUT,
    IDS,
    LOGIT_POSITIONS,
    LOGITS,
    SCALE_IN,
    SQUARES_OUT,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

LENGTHS = {5: tensors.LENGTHS, 6: tensors.TOTAL_LENGTH}
"""The inputs of GroupQueryAttention, by index, that are inputs of a segment."""
AXES_ARE_INPUTS = 18
"""From this version of ONNX on, reductions take their axes as an input."""
ASSEMBLY = 5
"""Changes whenever the same arguments give another graph than before."""


def assemble(
    plan: SplitPlan,
    start: int,
    stop: int,
    accuracy_level: int | None = None,
    *,
    halves: bool = False,
    dummies: bool = False,
    positions: int | None = None,
    rounding: KvRounding | None = None,
) -> bytes:
    """The segment's graph as bytes, the same for the same arguments; weights stay references.

    Args:
        accuracy_level: set on every MatMulNBits node (4: int8 activations, 1: float32); None leaves them.
        halves: hidden states in float32 come in and go out as halves.
        dummies: in attention there may be dummies behind the new positions.
        positions: that computed tables have rows for; None: all that the model knows.
        rounding: of keys and values; None: they are kept as they are.

    Raises:
        ValueError: [start, stop) is empty or outside the model.
        UnsupportedModel: there can't be dummies in this model's attention.
        UnsplittableGraph: the segment would need something that only another segment has.
    """
    if not 0 <= start < stop <= plan.num_units:
        raise ValueError(f"no such segment: [{start}, {stop}) of {plan.num_units} units")
    if dummies and any(parts == tensors.STATE_PARTS for parts in plan.decoder.parts.values()):
        raise UnsupportedModel(FOLDS)
    made = _Assembly(plan, start, stop, halves, dummies).build(accuracy_level)
    if positions is not None:
        limit_tables(made.graph.initializer, positions)
    if rounding is not None:
        round_caches(made, rounding)
    tell_kernels(made)
    graph: bytes = made.SerializeToString(deterministic=True)
    return graph


class _Assembly:
    def __init__(self, plan: SplitPlan, start: int, stop: int, halves: bool, dummies: bool) -> None:
        self.plan, self.start, self.stop = plan, start, stop
        self.decoder = plan.decoder
        self.source = plan.decoder.model.graph
        pairs = [(s, u) for s, u in zip(plan.decoder.core, plan.unit_of, strict=True) if start <= u < stop]
        self.steps = [s for s, _ in pairs]
        self.unit = {(s.node, s.part): u for s, u in pairs}
        self.layers = [n for u in range(start, stop) if (n := plan.layer_of(u)) is not None]
        self.has_head = stop == plan.num_units
        self.takes_halves = halves and start > 0 and plan.boundary(start).elem_type == FLOAT
        self.gives_halves = halves and not self.has_head and plan.boundary(stop).elem_type == FLOAT
        self.has_dummies = dummies and any(is_attention(self.source.node[s.node]) for s in self.steps)
        self.nodes: list[NodeProto] = []
        self.rename: dict[str, str] = {}
        self.gathered: dict[str, str] = {}
        self.needs_lengths = any(self._length_inputs(self.source.node[s.node]) for s in self.steps)

    def _length_inputs(self, node: NodeProto) -> dict[int, str]:
        """Which inputs of a node become ``LENGTHS``: those that depend on no token."""
        if not is_attention(node):
            return {}
        return {i: name for i, name in LENGTHS.items() if node.input[i] in self.decoder.cheap_producer}

    def _outside_inputs(self) -> list[str]:
        """What the steps read from outside, but for the lengths."""
        steps = []
        for step in self.steps:
            node = self.source.node[step.node]
            lengths = {node.input[i] for i in self._length_inputs(node)}
            steps.append(dataclasses.replace(step, inputs=tuple(n for n in step.inputs if n not in lengths)))
        return outside_inputs(self.decoder, steps)

    def build(self, accuracy_level: int | None) -> ModelProto:
        from onnx import ModelProto, helper

        if self.takes_halves:
            self._take_halves()  # first, since the cheap nodes may read the shape of their product
        cone, leaves = cheap_cone(self.decoder, self._outside_inputs())
        for index in cone:
            self._emit_cheap(self.source.node[index])
        if self.start > 0:
            self._open_input(self.plan.boundary(self.start))
        for step in self.steps:
            self._emit_core(step)
        if not self.has_head:
            self._close_output(self.plan.boundary(self.stop))
        if self.gives_halves:
            self._give_halves()
        if accuracy_level is not None:
            for node in self.nodes:
                set_accuracy_level(node, accuracy_level)
        wanted = set(leaves)
        graph = helper.make_graph(
            self.nodes,
            f"units_{self.start}_{self.stop}",
            self._inputs(wanted),
            self._outputs(),
            [t for t in self.source.initializer if t.name in wanted],
        )
        model = ModelProto(ir_version=self.decoder.model.ir_version, producer_name="linguabus")
        model.graph.CopyFrom(graph)
        model.opset_import.extend(self.decoder.model.opset_import)
        model.functions.extend(self.decoder.model.functions)
        return model

    def _copy(self, node: NodeProto) -> NodeProto:
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        copy.ClearField("metadata_props")
        copy.ClearField("doc_string")
        return copy

    def _emit_cheap(self, node: NodeProto) -> None:
        node = self._copy(node)
        if node.op_type == "Shape":
            past = PAST_NAME.match(node.input[0])
            if past and int(past[1]) not in self.layers:
                if not self.layers:
                    raise UnsplittableGraph(
                        f"node {node.name!r} needs the shape of {node.input[0]}, but units "
                        f"[{self.start}, {self.stop}) hold no KV cache"
                    )
                node.input[0] = tensors.past(self.layers[0], past[2])
            elif node.input[0] == IDS and self.start > 0:
                _limit_shape_to(node, 2)  # of hidden [B, S, W] only [B, S]
                node.input[0] = HIDDEN_IN
        self.nodes.append(node)

    def _take_halves(self) -> None:
        from onnx import TensorProto, helper

        floats = f"{HALVES_IN}/floats"
        self.nodes.append(helper.make_node("Cast", [HALVES_IN], [floats], to=TensorProto.FLOAT))
        self.nodes.append(helper.make_node("Mul", [floats, SCALE_IN], [HIDDEN_IN]))

    def _give_halves(self) -> None:
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        self.nodes.append(helper.make_node("Cast", [HIDDEN_OUT], [HALVES_OUT], to=TensorProto.FLOAT16))
        if self._opset() < AXES_ARE_INPUTS:
            self.nodes.append(helper.make_node("ReduceSumSquare", [HIDDEN_OUT], [SQUARES_OUT], axes=[-1]))
            return
        axes = f"{SQUARES_OUT}/axes"
        last = numpy_helper.from_array(np.array([-1], np.int64))
        self.nodes.append(helper.make_node("Constant", [], [axes], value=last))
        self.nodes.append(helper.make_node("ReduceSumSquare", [HIDDEN_OUT, axes], [SQUARES_OUT]))

    def _opset(self) -> int:
        return next(int(opset.version) for opset in self.decoder.model.opset_import if opset.domain in ("", "ai.onnx"))

    def _open_input(self, boundary: Boundary) -> None:
        from onnx import helper, numpy_helper

        if len(boundary.tensors) == 1:
            self.rename[boundary.tensors[0]] = HIDDEN_IN
            return
        import numpy as np

        sizes = numpy_helper.from_array(np.array(boundary.widths, np.int64))
        self.nodes.append(helper.make_node("Constant", [], ["hidden/widths"], value=sizes))
        names = list(boundary.tensors)
        self.nodes.append(helper.make_node("Split", [HIDDEN_IN, "hidden/widths"], names, axis=-1))

    def _close_output(self, boundary: Boundary) -> None:
        from onnx import helper

        names = [self.rename.get(n, n) for n in boundary.tensors]
        if len(names) > 1:
            self.nodes.append(helper.make_node("Concat", names, [HIDDEN_OUT], axis=-1))
        elif names[0] == HIDDEN_IN:
            self.nodes.append(helper.make_node("Identity", [HIDDEN_IN], [HIDDEN_OUT]))
        else:
            for node in self.nodes:
                for side in (node.input, node.output):
                    side[:] = [HIDDEN_OUT if n == names[0] else n for n in side]

    def _emit_core(self, step: Step) -> None:
        """Append the node of a step; of a fused pair that is here in full, one node where its first half stands."""
        from onnx import helper

        node = self._copy(self.source.node[step.node])
        unit = self.unit[step.node, step.part]
        closed = self._stays_fused(step.node)
        if step.part == "norm" and closed:
            return
        if step.part == "add" and closed:
            unit = self.unit[step.node, "norm"]
        elif step.part == "add":
            node = helper.make_node("Add", list(step.inputs), list(step.outputs), name=f"{node.name}/open")
        elif step.part == "norm":
            total = self._here(step.inputs[0], unit)
            zero = f"{step.outputs[0]}/zero"
            self.nodes.append(helper.make_node("Sub", [total, total], [zero], name=f"{node.name}/zero"))
            node.input[0], node.input[1] = step.inputs[0], zero
            del node.output[3:]
        for index, name in self._length_inputs(node).items():
            node.input[index] = name
        node.input[:] = [self._here(n, unit) for n in node.input]
        self.nodes += with_dummies(node) if self.has_dummies and is_attention(node) else [node]

    def _stays_fused(self, node: int) -> bool:
        if (node, "add") not in self.unit or (node, "norm") not in self.unit:
            return False
        head = self.plan.num_units - 1
        unit = self.unit[node, "norm"]
        if self.unit[node, "add"] == unit:
            return True
        if self.plan.boundary(unit).elem_type == FLOAT16:
            return False
        if unit != head:
            return True
        # The head sees selected rows only, so the sum may not be needed by anything before it.
        total = next(s.outputs[0] for s in self.steps if s.node == node and s.part == "add")
        return all(self.unit[s.node, s.part] == head for s in self.steps if total in s.inputs)

    def _here(self, name: str, unit: int) -> str:
        """The name under which a step of ``unit`` reads a tensor: for the head, only the rows that need logits."""
        from onnx import helper

        name = self.rename.get(name, name)
        if unit != self.plan.num_units - 1 or not self._crosses_into_head(name):
            return name
        if name not in self.gathered:
            self.gathered[name] = f"{name}/selected"
            gather = helper.make_node("Gather", [name, LOGIT_POSITIONS], [self.gathered[name]], axis=1)
            self.nodes.append(gather)
        return self.gathered[name]

    def _crosses_into_head(self, name: str) -> bool:
        head = self.plan.num_units - 1
        if name == HIDDEN_IN or (self.start == head and name in self.plan.boundary(head).tensors):
            return True
        makers = [s for s in self.steps if name in s.outputs]
        if not makers:
            return self.start > 0 and name in self.plan.boundary(self.start).tensors
        maker = makers[0]
        if maker.part == "add" and self._stays_fused(maker.node):
            return self.unit[maker.node, "norm"] != head
        return self.unit[maker.node, maker.part] != head

    def _inputs(self, wanted: set[str]) -> list[ValueInfoProto]:
        from onnx import TensorProto, helper

        declared = {i.name: i for i in self.source.input}
        read = wanted | {n for node in self.nodes for n in node.input}
        infos = [declared[IDS]] if self.start == 0 else []
        if self.takes_halves:
            width = self.plan.boundary(self.start).width
            infos += [_hidden_info(HALVES_IN, FLOAT16, width), _hidden_info(SCALE_IN, FLOAT, 1)]
        elif self.start > 0:
            boundary = self.plan.boundary(self.start)
            infos.append(_hidden_info(HIDDEN_IN, boundary.elem_type, boundary.width))
        infos += [declared[n] for n in SEQUENCE_INPUTS[1:] if n in read]
        if self.needs_lengths:
            infos.append(helper.make_tensor_value_info(LENGTHS[5], TensorProto.INT32, ["batch_size"]))
            infos.append(helper.make_tensor_value_info(LENGTHS[6], TensorProto.INT32, []))
        infos += dummies_inputs() if self.has_dummies else []
        infos += [declared[tensors.past(n, kind)] for n in self.layers for kind in self.decoder.parts[n]]
        if self.has_head:
            infos.append(helper.make_tensor_value_info(LOGIT_POSITIONS, TensorProto.INT64, ["num_logits"]))
        return infos

    def _outputs(self) -> list[ValueInfoProto]:
        from onnx import helper

        declared = {o.name: o for o in self.source.output}
        if self.has_head:
            logits = declared[LOGITS].type.tensor_type
            vocabulary = logits.shape.dim[-1].dim_value or "vocab_size"
            shape: list[str | int | None] = ["batch_size", "num_logits", vocabulary]
            infos = [helper.make_tensor_value_info(LOGITS, logits.elem_type, shape)]
        else:
            boundary = self.plan.boundary(self.stop)
            infos = [_hidden_info(HIDDEN_OUT, boundary.elem_type, boundary.width)]
        if self.gives_halves:
            infos += [_hidden_info(HALVES_OUT, FLOAT16, boundary.width), _hidden_info(SQUARES_OUT, FLOAT, 1)]
        return infos + [declared[tensors.present(n, kind)] for n in self.layers for kind in self.decoder.parts[n]]


def _hidden_info(name: str, elem_type: int, width: int) -> ValueInfoProto:
    from onnx import helper

    shape: list[str | int | None] = ["batch_size", "sequence_length", width]
    return helper.make_tensor_value_info(name, elem_type, shape)


def _limit_shape_to(node: NodeProto, rank: int) -> None:
    from onnx import helper

    bounds = {a.name: a.i for a in node.attribute}
    start, end = bounds.get("start", 0), bounds.get("end", rank)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("start", start + rank if start < 0 else start))
    node.attribute.append(helper.make_attribute("end", end + rank if end < 0 else min(end, rank)))


def set_accuracy_level(node: NodeProto, level: int) -> None:
    """Have a MatMulNBits compute in other activations (4: int8, 1: float32); other nodes stay as they are."""
    from onnx import helper

    if node.op_type != "MatMulNBits":
        return
    kept = [a for a in node.attribute if a.name != "accuracy_level"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("accuracy_level", level)])
