"""Input channels that are far larger than the others, kept out of the eight bits that activations are rounded to.

MatMulNBits rounds its inputs block by block, to 1/127 of the largest of a block. In a few channels of what a norm gives,
the same for all texts, values are ten times the others' and more: all of their block is rounded as coarsely as they are.
So the norm gives these channels made small, and what that takes away is added by a small product in float32. Both factors
are powers of two, so that nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

CHANNELS = 8
"""So many are kept out, of each input where it helps."""
SHRINK = 64
_WEIGHT_OF_NORM = {"SimplifiedLayerNormalization": 1, "RMSNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
_WORTH = 0.4
"""Where the rounding error's square falls at least to this part."""


def outlying_channels(values: NDArray[np.float32], block: int = 32) -> NDArray[np.int64] | None:
    """The channels of inputs [rows, K] that are worth being kept out, sorted; None if that would not help."""
    size = np.square(values).mean(axis=0)
    channels = np.sort(np.argsort(-size)[:CHANNELS])
    rest = values.copy()
    rest[:, channels] = 0
    before, after = (np.square(np.abs(v.reshape(len(v), -1, block)).max(axis=2)).mean() for v in (values, rest))
    return channels if after <= _WORTH * before else None


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


Outliers = Mapping[str, "NDArray[np.int64]"]
"""Channels to keep out, by the name of the input."""
