"""Statistics of a stage, for the heartbeat."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.stage_spec import StageSpec
from schemas.ewma import ewma
from schemas.messages import StageMetrics

_WEIGHT = 0.1


@dataclass(slots=True)
class StageStats:
    """Figures of all runs since the stage was loaded."""

    decode_s: float | None = None
    """Smoothed time of a run of one position per row."""
    decode_rows: float = 0.0
    """Smoothed number of rows of such a run."""
    busy_s: float = 0.0
    positions: int = 0

    def computed(self, rows: int, count: int, compute_s: float) -> None:
        """A run of ``rows`` requests with ``count`` positions each is done."""
        self.busy_s += compute_s
        self.positions += rows * count
        if count > 1:
            return
        self.decode_rows = ewma(None if self.decode_s is None else self.decode_rows, float(rows), _WEIGHT)
        self.decode_s = ewma(self.decode_s, compute_s, _WEIGHT)

    def metrics(self, spec: StageSpec, *, queue: int, open_requests: int) -> StageMetrics:
        """The figures as a message, for the heartbeat."""
        return StageMetrics(
            pipeline=spec.pipeline,
            epoch=spec.epoch,
            stage=spec.stage,
            decode_s=self.decode_s,
            decode_rows=self.decode_rows,
            queue=queue,
            busy_s=self.busy_s,
            positions=self.positions,
            open_requests=open_requests,
        )
