"""Which dummies behind runs make a segment give each position the same bits in any run, on this processor: tried.

What was found holds for a kernel in any segment, so a segment of kernels that this process has tried is not tried: most
have been when a model's units were measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from edge_node.errors import SegmentUnusable
from edge_node.runtime.attention_trial import keeps_bits
from edge_node.stage_spec import SegmentSpec
from edge_node.wire.activations import quiet
from schemas.codec import Dtype
from schemas.run_lengths import CANDIDATES, RunLengths, cut_into_runs

_POSITIONS = 16
"""Of the text that is tried."""
_LENGTHS = ((11, *[1] * 5), (5, 3))
"""Of the runs it is computed in, taken in turn, against one run."""


_held: dict[tuple[str, int], set[RunLengths]] = {}
"""By kernel and threads: the run lengths under which segments with that kernel kept their bits in all trials."""


class TriedSegment(Protocol):
    """What is needed of a segment."""

    spec: SegmentSpec
    threads: int
    runs: RunLengths

    @property
    def kernels(self) -> frozenset[str]: ...

    @property
    def kv_dtypes(self) -> frozenset[str]: ...

    def aside(self, context_tokens: int) -> AbstractContextManager[None]: ...

    def ids_input(self, rows: int) -> Any: ...

    def take_in(self, payload: bytes, dtype: Dtype, count: int) -> None: ...

    def run(self, slot: int, positions: Sequence[int], count: int, *, logits: int) -> Any: ...


def choose_runs(segment: TriedSegment) -> None:
    """Set the segment's ``runs`` to the first of the candidates under which no bit depends on the run.

    Attention is tried by itself, too; the segment's other matrices show in what it gives, unless all are known.

    Raises:
        SegmentUnusable: there is none.
    """
    if segment.spec.folds_positions:
        raise SegmentUnusable("dummies would go into folded states: serve the model in the profile exact")
    kernels = [(kernel, segment.threads) for kernel in segment.kernels]
    known = [runs for runs in CANDIDATES if kernels and all(runs in _held.get(kernel, ()) for kernel in kernels)]
    if known:
        segment.runs = known[0]
        return
    # Halves are computed with as floats on some processors, and may hide what differs.
    head_dims = (layer.key_dim for layer in segment.spec.kv_layers if layer.key_dim)
    kinds = set(itertools.product(head_dims, {"float32", *segment.kv_dtypes}))
    longest = min(_POSITIONS, segment.spec.chunk_tokens, segment.spec.context_tokens)
    for runs in CANDIDATES:
        if not all(keeps_bits(runs, *kind, segment.threads) for kind in kinds):
            continue
        segment.runs = runs
        expected = _outputs(segment, (longest,))
        shorter = ([min(length, longest) for length in lengths] for lengths in _LENGTHS)
        if all(_outputs(segment, lengths) == expected for lengths in shorter):
            for kernel in kernels if longest == _POSITIONS else ():
                _held.setdefault(kernel, set()).add(runs)
            return
    raise SegmentUnusable(
        "this processor gives other bits in other runs, whatever stands behind them: have the orchestrator serve the"
        " model in another profile (linguabus model add --profile exact)"
    )


def _outputs(segment: TriedSegment, lengths: Sequence[int]) -> list[bytes]:
    """What the segment gives for each position of a text that comes in runs of these lengths."""
    spec = segment.spec
    end = min(_POSITIONS, spec.context_tokens)
    ids = [(7 + 37 * index) % spec.vocab_size for index in range(end)]
    hidden = np.random.default_rng(0).standard_normal((end, max(spec.width_in, 1))).astype(np.float32)
    rows: list[bytes] = []
    with segment.aside(end), quiet():
        for start, stop in cut_into_runs(end, lengths):
            count = stop - start
            if spec.is_first:
                segment.ids_input(count)[:] = ids[start:stop]
            else:
                segment.take_in(hidden[start:stop].tobytes(), Dtype.FP32, count)
            rows += [row.tobytes() for row in segment.run(0, (start,), count, logits=count).output]
    return rows
