"""Eligibility: which nodes may be given layers, and which should give theirs up (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.replanning.constraints import refusal
from schemas.back_off import back_off_s
from schemas.messages import NodeBirth, PlanConstraints


class Eligibility:
    """Knows who may have layers, by the state of nodes, what an operator wants and who failed to load a segment."""

    def __init__(self, fleet: FleetView, *, exclude_s: float) -> None:
        """``exclude_s``: how long a node is left out that failed."""
        self._fleet = fleet
        self._exclusions = Exclusions(base_s=exclude_s)
        self._refused: set[str] = set()
        """Nodes that break the operator's rules about batteries."""

    def births(self, *, last_resort: bool = False) -> tuple[NodeBirth, ...]:
        """Births of nodes that a new plan may use; as a ``last_resort`` with those that had better have no layers."""
        here = (*self._fleet.plannable(), *(self.weak() if last_resort else ()))
        return tuple(birth for birth in here if not self.excludes(birth))

    def weak(self) -> tuple[NodeBirth, ...]:
        """Nodes that had better have no layers, but are better than no plan."""
        return tuple(birth for birth in self._fleet.usable() if self._fleet.is_weak(birth.node))

    def excludes(self, birth: NodeBirth) -> bool:
        """Is this start of a node left out, because it failed to load a segment?"""
        return self._exclusions.excludes(birth.node, birth.incarnation)

    def failed(self, plan: DeployedPlan, node: str, reason: str, now_s: float) -> None:
        """Leave a node out that could not hold its part of a plan, unless it went away."""
        incarnation = plan.incarnations[node]
        if self._fleet.is_usable(node, incarnation):
            self._exclusions.add(node, incarnation, reason, now_s)

    def must_go(self, node: str, constraints: PlanConstraints) -> bool:
        """Should this node have no layers, though it is here?"""
        return bool(self._fleet.why_drained(node)) or self._breaks_rules(node, constraints)

    def _breaks_rules(self, node: str, constraints: PlanConstraints) -> bool:
        known = self._fleet.nodes.get(node)
        return known is not None and refusal(constraints, node, known.health.condition) is not None

    def rules_changed(self, node: str, constraints: PlanConstraints) -> bool:
        """Has a node come to break the operator's rules, or to respect them again, since this was last asked?"""
        if self._breaks_rules(node, constraints) is (node in self._refused):
            return False
        self._refused ^= {node}
        return True

    def left_out(self) -> str:
        """The nodes that may not be used though they are here, and why, in one line; empty when there are none."""
        drained = [(birth.node, self._fleet.why_drained(birth.node)) for birth in self._fleet.usable()]
        reasons = [self._exclusions.reasons(), *(f"{node}: {reason}" for node, reason in drained if reason)]
        return "; ".join(filter(None, reasons))

    def expire(self, now_s: float) -> bool:
        """End exclusions that are over; true when a node may be planned with again."""
        return self._exclusions.expire(now_s)

    def next_deadline_s(self) -> float:
        """When ``expire`` next has something to do."""
        return self._exclusions.next_deadline_s()


_MAX_GROWTH = 10


@dataclass
class _Exclusion:
    incarnation: int
    reason: str
    times: int
    until_s: float


class Exclusions:
    """Nodes that are left out, by name; another start of a node is given another chance at once."""

    def __init__(self, *, base_s: float) -> None:
        self._base_s = base_s
        self._of: dict[str, _Exclusion] = {}

    def add(self, node: str, incarnation: int, reason: str, now_s: float) -> None:
        """Leave the node out, longer with each time."""
        known = self._of.get(node)
        times = known.times + 1 if known and known.incarnation == incarnation else 1
        wait_s = back_off_s(self._base_s, times - 1, _MAX_GROWTH * self._base_s)
        self._of[node] = _Exclusion(incarnation, reason, times, now_s + wait_s)

    def excludes(self, node: str, incarnation: int) -> bool:
        """Is this start of the node left out now?"""
        known = self._of.get(node)
        return known is not None and known.incarnation == incarnation and known.until_s < math.inf

    def expire(self, now_s: float) -> bool:
        """End exclusions that are over; true when a node may be planned with again."""
        over = [known for known in self._of.values() if known.until_s <= now_s]
        for known in over:
            known.until_s = math.inf  # kept, so that the next failure counts as one more
        return bool(over)

    def reasons(self) -> str:
        """The nodes that are left out and why, in one line; empty when there are none."""
        return "; ".join(f"{node}: {known.reason}" for node, known in self._of.items() if known.until_s < math.inf)

    def next_deadline_s(self) -> float:
        """When ``expire`` next has something to do."""
        return min((known.until_s for known in self._of.values()), default=math.inf)
