"""Decode steps of one slot through a segment, one position at a time, with everything they touch at hand.

The same as ``Segment.take_in``, ``run`` and ``give_out`` for one row. Between two runs of ONNX Runtime each function
and object more costs some microseconds, because the run has emptied the processor's caches; here there is one of each.
"""

from __future__ import annotations

import time
from typing import Any

from edge_node.runtime.sampling import choose_token
from edge_node.runtime.segment import Segment, cannot_run
from edge_node.stage.decode_fast_path import DecodeFastPath

_UNBOUND = object()


class FastDecodeRunner:
    """Runs the decode steps of one slot. Keeps its segment in memory."""

    __slots__ = (
        "_behind", "_binding", "_dtype", "_give", "_ids", "_is_last", "_lengths", "_offsets", "_positions", "_run",
        "_segment", "_slot", "_take", "_total",
    )  # fmt: skip

    def __init__(self, segment: Segment, slot: int) -> None:
        self._segment = segment
        self._slot = slot
        self._dtype = segment.spec.wire
        self._is_last = segment.spec.is_last
        self._ids = segment.ids_input(1).data if segment.spec.is_first else None
        self._take, self._give = segment.entry.take, segment.exit.give
        self._lengths, self._total = segment.lengths_view, segment.total_view
        self._behind = segment.runs.attended(1) - 1  # so many dummies
        self._positions = segment.step_positions
        self._offsets = range(len(self._positions))
        self._run = segment.session.run_with_iobinding
        self._binding: Any = _UNBOUND

    def step(self, fast_path: DecodeFastPath) -> tuple[bytes | int, float]:
        """Compute the step that a fast path has begun.

        Returns:
            The payload for the next stage or, on the last stage, the token; and the seconds ONNX Runtime took.

        Raises:
            NotFinite, SegmentUnusable: there is no result.
        """
        segment, position = self._segment, fast_path.position
        if self._ids is not None:
            self._ids[0] = fast_path.given
        else:
            self._take(fast_path.given, self._dtype, 0, 1)
        if segment.ready is not self._binding:
            segment.get_ready(self._slot)
            if segment.ready is None:
                compute_s = segment.run(self._slot, (position,), 1, copies=fast_path.copies).compute_s
                return self._choose(fast_path) if self._is_last else self._give(0, 1), compute_s
            self._binding = segment.ready
        last = position + self._behind
        self._lengths[0], self._total[0] = last, last + 1
        for index in self._offsets:
            self._positions[index] = position + index
        started = time.perf_counter()
        try:
            self._run(self._binding)
        except Exception as error:  # ONNX Runtime raises many unrelated types
            raise cannot_run(error) from error
        compute_s = time.perf_counter() - started
        return self._choose(fast_path) if self._is_last else self._give(0, 1), compute_s

    def _choose(self, fast_path: DecodeFastPath) -> int:
        draw = fast_path.draw()
        logits = self._segment.exit.rows(1)[0]
        allowed = draw.allowed[0] if draw.allowed is not None else None
        return choose_token(logits, draw.sampling, draw.position, draw.history, draw.prompt_tokens, allowed)
