"""How far keys and values of a model reach by channel, and scales for int8 with room for that.

A channel's scale is made for the largest value found there and a little more; what lies beyond is cut off. Keys are
turned by their position before they are kept, which mixes the two channels of a pair: both have the scale of the pair's
length, so that it holds for positions that no text is long enough for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model.attention import is_attention
from orchestrator.model.kv_rounding import MOST, LayerScales
from orchestrator.model.rotary import columns
from schemas.segment_tensors import KV_PARTS, past

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.model.graph import Decoder
    from orchestrator.model.manifest import LayerCache
    from orchestrator.model.subject import Subject

MARGINS = (1.1, 1.25)
"""Of keys and values: how much more than the largest value found is made room for."""
LEAST_SHARE = 1 / 64
"""Of a head's largest scale: no channel has a smaller one, as the text may have missed what it is for."""
_COSINES = 7
"""The input of attention with the cosines that it turns keys by."""


class KvPeaks:
    """How far keys and values of a model reach, by channel."""

    def __init__(self, subject: Subject) -> None:
        self._layers = [layer for layer in subject.layers if layer.kv_heads]
        self._turns = {layer.layer: _Turn.of(subject.plan.decoder, layer) for layer in self._layers}
        self._found: dict[str, NDArray[Any]] = {}
        """Of keys the largest; of values the largest and the smallest, [2, kv_heads, dim]."""
        self._first: dict[str, list[NDArray[Any]]] = {}
        """Values of the first position of each text."""

    def take(self, cache: Mapping[str, NDArray[Any]]) -> None:
        """Take in what a block keeps of a text."""
        import numpy as np

        for layer in self._layers:
            key, value = (past(layer.layer, part) for part in KV_PARTS)
            if key not in cache:
                continue
            keys, values = (cache[name][0].astype(np.float32) for name in (key, value))  # (heads, tokens, dim)
            lengths = self._turns[layer.layer].lengths(np.abs(keys)).max(axis=1)
            self._found[key] = np.maximum(self._found.get(key, lengths), lengths)
            ends = np.stack([values.max(axis=1), values.min(axis=1)])
            before = self._found.get(value, ends)
            self._found[value] = np.stack([np.maximum(before[0], ends[0]), np.minimum(before[1], ends[1])])
            self._first.setdefault(value, []).append(values[:, 0])

    def scales(self) -> tuple[LayerScales, ...]:
        """What is told by all that was taken in."""
        import numpy as np

        made = []
        for layer in self._layers:
            key, value = (past(layer.layer, part) for part in KV_PARTS)
            usual = np.median(self._first[value], axis=0).astype(np.float32)
            largest, smallest = self._found[value]
            steps = [
                _steps(MARGINS[0] * self._found[key]),
                _steps(MARGINS[1] * np.maximum(largest - usual, usual - smallest)),
            ]
            parts = (tuple(map(float, part.ravel())) for part in (*steps, usual))
            made.append(LayerScales(layer.layer, layer.kv_heads, *parts))
        return tuple(made)


def _steps(peaks: NDArray[Any]) -> NDArray[Any]:
    """What a step is worth in channels [kv_heads, dim] that are to have room for these."""
    import numpy as np

    least = np.maximum(LEAST_SHARE * peaks.max(axis=-1, keepdims=True), np.finfo(np.float32).tiny * MOST)
    steps: NDArray[Any] = (np.maximum(peaks, least) / MOST).astype(np.float32)
    return steps


@dataclass(frozen=True)
class _Turn:
    """How attention turns a layer's keys: the first ``width`` channels, in pairs that lie side by side or half of them
    apart. ``width`` 0: something else turns them, in a way that is not known.
    """

    width: int
    side_by_side: bool

    @classmethod
    def of(cls, decoder: Decoder, layer: LayerCache) -> _Turn:
        nodes = (node for node in decoder.model.graph.node if is_attention(node))
        node = next(node for node in nodes if past(layer.layer, KV_PARTS[0]) in node.input)
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        width = 2 * columns(decoder, node.input[_COSINES]) if attributes.get("do_rotary") else 0
        return cls(width, bool(attributes.get("rotary_interleaved")))

    def lengths(self, sizes: NDArray[Any]) -> NDArray[Any]:
        """The length of the pair that each value (heads, tokens, dim) is of: no turn makes it larger."""
        import numpy as np

        if not self.width:
            largest = math.sqrt(2) * sizes.max(axis=-1, keepdims=True)
            return np.broadcast_to(largest, sizes.shape)
        heads, tokens, _ = sizes.shape
        shape = (heads, tokens, -1, 2) if self.side_by_side else (heads, tokens, 2, self.width // 2)
        pairs = sizes[..., : self.width].reshape(shape)
        axis = -1 if self.side_by_side else -2
        norms = np.broadcast_to(np.linalg.norm(pairs, axis=axis, keepdims=True), pairs.shape)
        lengths: NDArray[Any] = np.concatenate([norms.reshape(heads, tokens, -1), sizes[..., self.width :]], axis=-1)
        return lengths
