"""One run of a segment: what to compute, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_node.effects import StageKey
from schemas.codec import Frame
from schemas.messages import Sampling

FailureCode = Literal["busy", "too_long", "no_progress", "not_finite", "internal"]


@dataclass(frozen=True, slots=True)
class Draw:
    """How to choose the token at ``position``."""

    sampling: Sampling
    position: int
    history: Sequence[int]


@dataclass(frozen=True, slots=True)
class Work:
    """One run of the segment. Exactly one of ``ids`` (first stage) and ``frame`` is there."""

    key: StageKey
    request: int
    slot: int
    attempt: int
    position: int
    count: int
    sample: bool
    ids: Sequence[int] | None = None
    frame: Frame | None = None
    draw: Draw | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """A run's result: a payload for the next stage, a token of the last stage, neither, or a failure."""

    compute_s: float
    payload: bytes | None = None
    token: int | None = None
    failure: str | None = None
    failure_code: FailureCode = "internal"
