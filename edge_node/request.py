"""A request on one stage: its slot, its place by the position rule, its input queue and what it has cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_node.positions import PositionRule
from edge_node.ring import RingDriver
from edge_node.work import Row
from schemas.codec import Flag, Frame
from schemas.messages import OpenRequest, StageTiming


@dataclass(slots=True)
class StageRequest:
    """A request on this stage."""

    open: OpenRequest
    slot: int
    rule: PositionRule = field(default_factory=PositionRule)
    driver: RingDriver | None = None
    frames: deque[Frame] = field(default_factory=deque)
    tokens: dict[int, int] = field(default_factory=dict)
    """Last stage: generated tokens by position."""
    finish: Flag = Flag.NONE
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    positions: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    decode_bytes_out: int = 0
    frames_dropped: int = 0
    waiting: bool = False
    """Has a turn."""

    @property
    def has_input(self) -> bool:
        """Is there something to compute?"""
        return bool(self.driver.steps if self.driver else self.frames)

    @property
    def next_count(self) -> int:
        """Positions of the next input."""
        return len(self.driver.steps[0].ids) if self.driver else self.frames[0].count

    def is_decode(self, row: Row) -> bool:
        """Is the row past the prompt?"""
        return row.position >= self.open.prompt_tokens

    def account(self, row: Row, compute_s: float) -> None:
        """Count a run that the request had a row in: the time is the whole run's, which the request waited for."""
        self.positions += row.count
        if self.is_decode(row):
            self.decode_s += compute_s
            self.decode_steps += 1
        else:
            self.prefill_s += compute_s

    def sent(self, size_bytes: int, *, decode: bool) -> None:
        """Count a frame."""
        self.frames_out += 1
        self.bytes_out += size_bytes
        if decode:
            self.decode_bytes_out += size_bytes

    def history(self, length: int) -> Sequence[int]:
        """Ids of positions [0, length), as far as this stage was told the prompt."""
        known = list(self.open.prompt_ids or ())[:length]
        return known + [self.tokens[position] for position in range(len(known), length)]

    def timing(self, node: str, stage: int) -> StageTiming:
        """What was done for the request."""
        return StageTiming(
            node=node,
            stage=stage,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            decode_steps=self.decode_steps,
            positions=self.positions,
            frames_out=self.frames_out,
            bytes_out=self.bytes_out,
            decode_bytes_out=self.decode_bytes_out,
            frames_dropped=self.frames_dropped,
        )
