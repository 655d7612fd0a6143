"""One run of a segment: what to compute, and what came of it.

A run is either one request's chunk of a prompt, or one position of each of several requests (a batch).
"""

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
class Row:
    """One request's part of a run. Exactly one of ``ids`` (first stage) and ``frame`` is there."""

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
class Work:
    """One run of the segment.

    ``rows`` are in the order of their slots; more than one only if each is of one position. A batch covers
    neighbouring slots: ``idle`` are (slot, position) of those between them that have nothing to compute; what is
    computed for them goes nowhere, into the KV row that their own next step will write.
    """

    key: StageKey
    rows: tuple[Row, ...]
    idle: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RowResult:
    """What came of a row: a payload for the next stage, a token of the last stage, neither, or a failure."""

    payload: bytes | None = None
    token: int | None = None
    failure: str | None = None
    failure_code: FailureCode = "internal"


@dataclass(frozen=True, slots=True)
class Computed:
    """A run's results, in the order of its rows."""

    compute_s: float
    rows: tuple[RowResult, ...]
