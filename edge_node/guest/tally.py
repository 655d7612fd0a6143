"""How many tokens a node has served: what its stages computed, each text once (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.messages import Epoch, StageMetrics


class Tally:
    """Adds up what stages report of themselves, from heartbeat to heartbeat. A node with both ends counts once."""

    def __init__(self) -> None:
        self.tokens = 0
        """Positions of prompts and answers that went through this node."""
        self._seen: dict[tuple[str, Epoch], int] = {}
        """By ring: the positions of its first stage here, as last told."""

    def add(self, stages: Iterable[StageMetrics]) -> None:
        """Take in what a heartbeat says."""
        now: dict[tuple[str, Epoch], tuple[int, int]] = {}
        for stage in stages:
            ring = (stage.pipeline, stage.epoch)
            now[ring] = min(now.get(ring, (stage.stage, stage.positions)), (stage.stage, stage.positions))
        for ring, (_, positions) in now.items():
            self.tokens += max(0, positions - self._seen.get(ring, 0))
        self._seen = {ring: positions for ring, (_, positions) in now.items()}
