"""Nodes of the working ring that are gone: which may be back, and how long that is worth waiting for (pure)."""

from __future__ import annotations

import math

from orchestrator.deployment.open_requests import OpenRequests
from orchestrator.deployment.plan import DeployedPlan
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.timing import Timing


class MissingNodes:
    """The nodes that are missing from the ring in force.

    One that started again, or said good-bye, will not be back as it was. One that fell silent or lost its connection
    may be: with requests open, its ring is kept until there is a plan without it, unless another pipeline could go on.
    """

    def __init__(self, fleet: FleetView, requests: OpenRequests, timing: Timing) -> None:
        self._fleet = fleet
        self._requests = requests
        self._timing = timing
        self.awaited: frozenset[str] = frozenset()
        """Those for whose return, or replacement, the ring is kept."""

    def of(self, plan: DeployedPlan | None) -> frozenset[str]:
        """Nodes of a plan that are not here, or not as they were."""
        starts = plan.incarnations if plan else {}
        return frozenset(name for name, start in starts.items() if not self._fleet.is_usable(name, start))

    def due_s(self, plan: DeployedPlan | None) -> float:
        """When something has to be done about what is missing: at once for a node that will not be back, after a moment
        for one that may be, and after a long while once it is awaited."""
        return min((self._due_s(plan, name) for name in self.of(plan)), default=math.inf) if plan else math.inf

    def _due_s(self, plan: DeployedPlan, name: str) -> float:
        if not self._may_return(plan, name):
            return -math.inf
        awaits = name in self.awaited and self._may_await
        patience_s = self._timing.await_s if awaits else self._timing.loss_settle_s
        return self._fleet.nodes[name].offline_since_s + patience_s

    @property
    def _may_await(self) -> bool:
        """Is there something to lose with the ring, and no other pipeline that could go on with it?"""
        return self._requests.open_count > 0 and not self._fleet.is_divided

    def _may_return(self, plan: DeployedPlan, name: str) -> bool:
        node = self._fleet.nodes[name]
        return node.birth.incarnation == plan.incarnations[name] and not node.refused and not node.leaving

    def await_return(self, plan: DeployedPlan, now_s: float) -> bool:
        """Begin to await all that is missing, or go on; false when that is no use, or has lasted for long enough."""
        missing = self.of(plan)
        overdue = {name for name in missing & self.awaited if now_s >= self._due_s(plan, name)}
        if overdue or not self._may_await or not all(self._may_return(plan, name) for name in missing):
            return False
        self.awaited = missing
        return True

    def returned(self, plan: DeployedPlan | None) -> frozenset[str]:
        """Take the nodes that were awaited and are back."""
        back = self.awaited - self.of(plan) if self.awaited else frozenset()
        self.awaited -= back
        return back

    def forget(self) -> None:
        """Await nobody any more: the ring is given up, or replaced."""
        self.awaited = frozenset()
