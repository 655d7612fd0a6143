"""Dummies in attention: positions of zeros behind the new ones, for the sake of the kernel (`schemas.run_lengths`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model.errors import UnsupportedModel
from schemas.segment_tensors import ATTENTION_END, ATTENTION_PADS

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

_NEW_ROWS = (0, 1, 2)
"""The inputs with queries, keys and values, by index; where the first has all three the others are empty."""
_PER_POSITION = (9, 10)
"""Those with position ids and a bias of scores."""


HEAD_STEP, TURNED_STEP = 8, 16
"""ONNX Runtime's attention takes heads of a multiple of so many values, and where it turns them itself of so many."""
FOLDS = "its blocks fold all positions into a state, into which dummies would go, too: take --profile exact"
"""Why a model can't have dummies."""


def check_head_size(size: int, what: str, *, turned: bool = False) -> None:
    """Check that attention takes heads of so many values, which it turns itself or not; raises `UnsupportedModel`."""
    step = TURNED_STEP if turned else HEAD_STEP
    if size % step:
        raise UnsupportedModel(
            f"{what}: its heads have {size} values (head_dim), and ONNX Runtime's attention takes multiples of {step}:"
            " take a model with such heads, as most have (64, 128)"
        )


def is_attention(node: NodeProto) -> bool:
    """Is it the attention that segments have?"""
    return bool(node.op_type == "GroupQueryAttention")


def dummies_inputs() -> list[ValueInfoProto]:
    """The inputs that say how many dummies there are (as pads of a [1, S, W]), and where they begin."""
    from onnx import TensorProto, helper

    return [
        helper.make_tensor_value_info(ATTENTION_PADS, TensorProto.INT64, [6]),
        helper.make_tensor_value_info(ATTENTION_END, TensorProto.INT64, [1]),
    ]


def with_dummies(node: NodeProto) -> list[NodeProto]:
    """An attention that computes dummies behind its new positions and leaves them out of its result.

    Raises:
        UnsupportedModel: it is told something of each position, which dummies have not.
    """
    from onnx import helper

    if any(node.input[index] for index in _PER_POSITION if index < len(node.input)):
        raise UnsupportedModel(
            f"attention {node.name!r} is told something of each position, so none may be added: take --profile exact"
        )
    result, longer = node.output[0], f"{node.output[0]}/longer"
    nodes = []
    for index in _NEW_ROWS:
        if node.input[index]:
            name = f"{longer}/{index}"
            nodes.append(helper.make_node("Pad", [node.input[index], ATTENTION_PADS], [name]))
            node.input[index] = name
    node.output[0] = longer
    begin, axis = f"{longer}/begin", f"{longer}/axis"
    return [
        *nodes,
        node,
        helper.make_node("Constant", [], [begin], value_ints=[0]),
        helper.make_node("Constant", [], [axis], value_ints=[1]),
        helper.make_node("Slice", [longer, begin, ATTENTION_END, axis], [result]),
    ]
