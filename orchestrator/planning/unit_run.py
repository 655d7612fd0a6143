"""Neighbouring units of the chain that are alike, as the planner counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.planning.errors import PlanningError
from schemas.segment_tensors import STATE_COPIES
from schemas.units import KINDS


@dataclass(frozen=True)
class UnitRun:
    """Neighbouring units that are alike.

    `weight_bytes` is what one loaded unit takes resident (after pre-packing), `loading_bytes` what it takes while it is
    loaded, where that is more, `disk_bytes` its blob on disk (as `weight_bytes` when None), `kv_bytes_per_token` its KV
    cache per token of context and slot, which of neighbours may be `kv_spread_bytes` more in all, `state_bytes` its
    state of a text, of which nodes have copies, where it folds all positions into one; in a run of both kinds it may be
    either. Where a draft model goes with a unit its figures are in all of these, and `without_draft` is what they are
    without.
    """

    kind: str
    start: int
    count: int
    weight_bytes: int
    kv_bytes_per_token: int = 0
    flops_per_token: float = 0.0
    disk_bytes: int | None = None
    loading_bytes: int = 0
    state_bytes: int = 0
    kv_spread_bytes: int = 0
    without_draft: UnitRun | None = None

    @property
    def stop(self) -> int:
        return self.start + self.count

    @property
    def stored_bytes(self) -> int:
        return self.weight_bytes if self.disk_bytes is None else self.disk_bytes


class Keeps(Protocol):
    """A unit, by what it keeps of texts."""

    @property
    def kv_bytes_per_token(self) -> int: ...

    @property
    def state_bytes(self) -> int: ...


def cache_bytes(unit: Keeps, context_tokens: int, slots: int) -> int:
    """What one unit keeps of so many texts of so many positions: KV caches, or copies of folded states."""
    return slots * max(unit.kv_bytes_per_token * context_tokens, unit.state_bytes * STATE_COPIES)


def check_runs(runs: Sequence[UnitRun]) -> None:
    """Raises `PlanningError` where runs make no chain of units."""
    if not runs:
        raise PlanningError("the model has no units: add it again with `linguabus model add`")
    at = 0
    for run in runs:
        if run.kind not in KINDS:
            raise PlanningError(f"run kind {run.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if run.start != at or run.count < 1:
            raise PlanningError(f"runs must follow each other: expected one that starts at unit {at}, got {run.start}")
        if min(run.weight_bytes, run.kv_bytes_per_token, run.state_bytes, run.stored_bytes) < 0:
            raise PlanningError(f"the {run.kind} run at unit {run.start} has a negative size")
        at = run.stop
