"""The log of decisions: which solutions replaced the plan in force, which did not, and why (pure)."""

from __future__ import annotations

import enum
import math
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.planning.problem import Stage
from schemas.messages import DecisionView, StageRef

Stages = tuple[Stage, ...]


class Verdict(enum.Enum):
    """The outcome of a decision."""

    STAY = "stay"
    ASK = "ask"
    MOVE = "move"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision with its reason. ``gain``: share of the time per token; ``saved_s`` over the expected work."""

    verdict: Verdict
    reason: str
    stages: Stages = ()
    """Where to move."""
    gain: float = 0.0
    saved_s: float = 0.0
    cost_s: float = 0.0
    """Infinity: open requests can't be moved there."""

    @property
    def known_cost_s(self) -> float | None:
        """The cost as JSON can say it."""
        return self.cost_s if math.isfinite(self.cost_s) else None


@dataclass
class _Entry:
    """Equal decisions in a row, kept as one."""

    decision: Decision
    first_s: float
    last_s: float
    times: int = 1


class DecisionLog:
    """The newest decisions; equal ones that follow each other are one entry."""

    def __init__(self, limit: int = 200) -> None:
        self._entries: list[_Entry] = []
        self._limit = limit

    def add(self, decision: Decision, now_s: float) -> None:
        """Remember a decision."""
        newest = self._entries[-1] if self._entries else None
        same = newest and (newest.decision.verdict, newest.decision.reason) == (decision.verdict, decision.reason)
        if newest and same:
            newest.decision, newest.last_s, newest.times = decision, now_s, newest.times + 1
            return
        self._entries.append(_Entry(decision, now_s, now_s))
        del self._entries[: -self._limit]

    def view(self, now_s: float) -> tuple[DecisionView, ...]:
        """The decisions for operators: by the time of the last of equal ones, with ages instead of times."""
        return tuple(
            DecisionView(
                verdict=entry.decision.verdict.value,
                reason=entry.decision.reason,
                times=entry.times,
                gain=entry.decision.gain,
                saved_s=entry.decision.saved_s,
                cost_s=entry.decision.known_cost_s,
                stages=tuple(StageRef(node=one.node, start=one.start, stop=one.stop) for one in entry.decision.stages),
                first_s_ago=round(now_s - entry.first_s, 3),
                last_s_ago=round(now_s - entry.last_s, 3),
            )
            for entry in sorted(self._entries, key=lambda entry: entry.last_s)
        )

    def as_dicts(self) -> list[dict[str, Any]]:
        """The decisions for simulations: oldest first; JSON-able, times on the simulation's clock."""
        return [
            {
                "verdict": entry.decision.verdict.value,
                "reason": entry.decision.reason,
                "first_s": entry.first_s,
                "last_s": entry.last_s,
                "times": entry.times,
                "gain": entry.decision.gain,
                "saved_s": entry.decision.saved_s,
                "cost_s": entry.decision.known_cost_s,
                "stages": [asdict(stage) for stage in entry.decision.stages],
            }
            for entry in self._entries
        ]
