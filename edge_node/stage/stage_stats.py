"""Statistics of a stage, for the heartbeat."""

from __future__ import annotations

from collections import deque

from edge_node.stage_spec import StageSpec
from schemas.ewma import ewma
from schemas.messages import StageMetrics

_WEIGHT = 0.1
_MOST_RUNS = 1_000
"""Of which each is smoothed in; those before them would count nothing any more."""


class StageStats:
    """Figures of all runs since the stage was loaded. Runs are noted as they come and smoothed once a heartbeat: the
    first is on the way of every token."""

    __slots__ = ("_busy_s", "_decode_rows", "_decode_s", "_decoded", "_position_s", "_positions", "_row_s", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        """Of the answers of requests that are over."""
        self._busy_s = 0.0
        self._positions = 0
        self._position_s: float | None = None
        """Time per position of the last run of several positions."""
        self._row_s: float | None = None
        """Time per row of the last run of one position."""
        self._decode_s: float | None = None
        """Smoothed time of a run of one position per row."""
        self._decode_rows: float | None = None
        """Smoothed number of rows of such a run."""
        self._decoded: deque[tuple[int, float]] = deque(maxlen=_MOST_RUNS)
        """Rows and seconds of such runs since the last heartbeat."""

    def computed(self, rows: int, count: int, compute_s: float) -> None:
        """A run of ``rows`` requests with ``count`` positions each is done."""
        self._busy_s += compute_s
        self._positions += rows * count
        if count == 1:
            self._decoded.append((rows, compute_s))
            self._row_s = compute_s / rows
        else:
            self._position_s = compute_s / (rows * count)

    def expected_s(self, rows: int, count: int) -> float | None:
        """How long a run will take, by the last of its kind; None before the first."""
        each_s = self._row_s if count == 1 else self._position_s
        return None if each_s is None else each_s * rows * count

    def metrics(self, spec: StageSpec, *, queue: int, open_requests: int) -> StageMetrics:
        """The figures as a message, for the heartbeat."""
        for rows, compute_s in self._decoded:
            self._decode_rows = ewma(self._decode_rows, float(rows), _WEIGHT)
            self._decode_s = ewma(self._decode_s, compute_s, _WEIGHT)
        self._decoded.clear()
        return StageMetrics(
            pipeline=spec.pipeline,
            epoch=spec.epoch,
            stage=spec.stage,
            decode_s=self._decode_s,
            decode_rows=self._decode_rows or 0.0,
            queue=queue,
            busy_s=self._busy_s,
            positions=self._positions,
            open_requests=open_requests,
        )
