"""A converted model to be looked at, one unit at a time: it may not be packed yet."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.assemble import assemble
from orchestrator.model.graph import resolve
from orchestrator.model.kv_rounding import KvRounding
from orchestrator.model.manifest import LayerCache
from orchestrator.model.segment_run import SegmentRun, open_graph
from orchestrator.model.split import SplitPlan, plan_split

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from onnxruntime import InferenceSession

DECODE_TOKENS = 4
THREADS = os.cpu_count() or 1


@dataclass(frozen=True)
class Subject:
    """A decoder cut into units, its weights in files of ``folder``; ``rounding``: of keys and values."""

    plan: SplitPlan
    folder: Path
    layers: tuple[LayerCache, ...]
    rounding: KvRounding | None = None

    @staticmethod
    def of(model: ModelProto, folder: Path, layers: tuple[LayerCache, ...]) -> Subject:
        """Of a parsed decoder, which is cut here; raises `UnsplittableGraph`."""
        return Subject(plan_split(resolve(model, folder)), folder, layers)

    def open(self, unit: int, accuracy_level: int | None) -> InferenceSession:
        """A session of one unit; of embedding and head in float32 without a copy, as they are run a few times."""
        prepack = 0 < unit < self.plan.num_units - 1 or self._is_quantised(unit)
        graph = assemble(self.plan, unit, unit + 1, accuracy_level, rounding=self.rounding)
        return open_graph(graph, self.folder, THREADS, prepack=prepack)

    def _is_quantised(self, unit: int) -> bool:
        steps = zip(self.plan.decoder.core, self.plan.unit_of, strict=True)
        return any(self.plan.decoder.op(step) == "MatMulNBits" for step, own in steps if own == unit)

    def through(
        self, session: InferenceSession, ids: Sequence[int], hidden: NDArray[Any] | None, prefill: int
    ) -> NDArray[Any]:
        """What a unit makes of S tokens: ``prefill`` of them at a time, the last ``DECODE_TOKENS`` one by one.

        Args:
            hidden: [S, W]; None for the embedding.

        Returns:
            [S, W], or logits [S, V] of the head.
        """
        import numpy as np

        run = SegmentRun(session, self.layers)
        out = []
        for start, stop in steps_of(len(ids), prefill):
            given = None if hidden is None else hidden[None, start:stop]
            out.append(run.step(ids[start:stop], given, range(stop - start)))
        result: NDArray[Any] = np.concatenate(out, axis=1)[0]
        return result


def steps_of(tokens: int, prefill: int) -> Iterator[tuple[int, int]]:
    """The runs that a text is fed in: ``prefill`` tokens at a time, the last ``DECODE_TOKENS`` one by one."""
    together = max(tokens - DECODE_TOKENS, 0)
    edges = [*range(0, together, prefill), *range(together, tokens + 1)]
    yield from itertools.pairwise(edges)
