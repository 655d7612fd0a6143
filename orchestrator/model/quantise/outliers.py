"""Input channels that are far larger than the others, kept out of the eight bits that activations are rounded to.

MatMulNBits rounds its inputs block by block, to 1/127 of the largest of a block. In a few channels of what a norm
gives, the same for all texts, values are ten times the others' and more, and all of their block is rounded as coarsely
as they are. So the norm gives these channels made small, by a power of two, and a small product in float32 adds what
that takes away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.split import SplitPlan
from orchestrator.model.weights import float32_values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

Outliers = Mapping[str, "NDArray[np.int64]"]
"""Channels to keep out, by the name of the input."""
CHANNELS = 4
"""So many are kept out, of each input where it helps."""
SHRINK = 64
_WEIGHT_OF_NORM = {"SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
_WORTH = 0.15
"""Where the rounding error's square falls at least to this part, for each matrix that gets another product."""


def outlying_channels(values: NDArray[np.float32], products: int, block: int = 32) -> NDArray[np.int64] | None:
    """The channels of inputs [rows, K] that are worth being kept out, sorted; None if that would help too little.

    Nor is there anything to keep out of where K is no multiple of a block: such matrices have no blocks.

    Args:
        products: how many matrices read the inputs. Each gets two operators more.
    """
    if values.shape[1] % block:
        return None
    size = np.square(values).mean(axis=0)
    channels = np.sort(np.argsort(-size)[:CHANNELS])
    rest = values.copy()
    rest[:, channels] = 0
    before, after = (np.square(np.abs(v.reshape(len(v), -1, block)).max(axis=2)).mean() for v in (values, rest))
    return channels if products * after <= _WORTH * before else None


def find_outliers(plan: SplitPlan, folder: Path, hidden: NDArray[np.float32]) -> Outliers:
    """Channels worth being kept out, of what norms give.

    Args:
        plan: of the decoder in float32, its weights in files of ``folder``.
        hidden: [L + 1, S, W], hidden states of a text before each block, and after the last one.
    """
    unit_of = {name: unit for step, unit in zip(plan.decoder.core, plan.unit_of, strict=True) for name in step.outputs}
    found = {}
    graph = plan.decoder.model.graph
    products = Counter(name for node in graph.node if node.op_type == "MatMul" for name in node.input)
    for x, node in norms_before_products(graph).items():
        tensor = plan.decoder.initializers.get(node.input[weight_index(node)])
        if x not in unit_of or tensor is None or tuple(tensor.dims) != hidden.shape[2:]:
            continue
        weight = float32_values(tensor, folder)
        unit = unit_of[x]
        # The first position is left out: what many models leave there is like nothing that comes after it.
        states = np.concatenate([hidden[unit - 1][1:], hidden[min(unit, len(hidden) - 1)][1:]])
        sizes = np.sqrt(np.square(states).mean(axis=1, keepdims=True)) + np.float32(1e-30)
        channels = outlying_channels(states / sizes * weight, products[x])
        if channels is not None:
            found[x] = channels
    return found


def norms_before_products(graph: GraphProto) -> dict[str, NodeProto]:
    """The norms that only matrix products read, by the name of what they give."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    return {
        node.output[0]: node
        for node in graph.node
        if node.op_type in _WEIGHT_OF_NORM and readers.get(node.output[0]) == {"MatMul"}
    }


def weight_index(norm: NodeProto) -> int:
    """Which input of a norm is its weight."""
    return _WEIGHT_OF_NORM[norm.op_type]


def shrunk(channels: NDArray[np.int64], columns: int) -> NDArray[np.float32]:
    """What a norm's weight [K] is multiplied by."""
    factors = np.ones(columns, np.float32)
    factors[channels] = 1 / SHRINK
    return factors


def missing_weights(weights: NDArray[np.float32], channels: NDArray[np.int64]) -> NDArray[np.float32]:
    """[channels, N]: what the shrunk channels are multiplied by in float32, of weights [N, K]."""
    return np.ascontiguousarray(weights[:, channels].T) * np.float32(SHRINK - 1)
