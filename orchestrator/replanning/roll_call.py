"""The roll call of a ring that an earlier start has left: who is here with his part, and how long to wait (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.fleet.fleet_view import FleetView
from orchestrator.timing import Timing
from schemas.messages import Heartbeat, Plan


class RollCall:
    """Which nodes of one plan's ring are here and hold their stages, as they say themselves."""

    def __init__(self, plan: Plan, fleet: FleetView, timing: Timing) -> None:
        self.plan = plan
        self.starts = dict(zip((stage.node for stage in plan.ring), plan.starts, strict=False))
        """Which start of each node the plan counts on."""
        self._fleet = fleet
        self._timing = timing
        self._holders: set[str] = set()
        self._denies = ""
        self._here = 0
        """Nodes of the fleet, at the last look."""
        self._first_s = self._newest_s = -math.inf
        """When the first of them was there, and when they last became more."""

    def heard(self, beat: Heartbeat) -> None:
        """Take in which stages a node holds."""
        node, plan = beat.node, self.plan
        if self.starts.get(node) != beat.incarnation:
            return
        own = {number for number, stage in enumerate(plan.ring) if stage.node == node}
        said = {stage.stage for stage in beat.stages if (stage.pipeline, stage.epoch) == (plan.pipeline, plan.epoch)}
        if own <= said:
            self._holders.add(node)
        else:
            self._denies = f"{node} does not hold its part any more"

    def look(self, now_s: float) -> None:
        """Note whether nodes have come since the last time."""
        here = len(self._fleet.usable())
        if here > self._here:
            self._newest_s = now_s
            self._first_s = self._first_s if self._here else now_s
        self._here = here

    @property
    def why_not(self) -> str:
        """Why the ring is none any more, whoever may come yet; empty while that is not known."""
        for node, start in self.starts.items():
            known = self._fleet.nodes.get(node)
            if known and known.usable and known.birth.incarnation != start:
                return f"{node} has started again"
        return self._denies

    def absent(self) -> list[str]:
        """The nodes that are not here with their parts, in the order of the ring."""
        starts = self.starts.items()
        return [node for node, start in starts if node not in self._holders or not self._fleet.is_usable(node, start)]

    def until_s(self, started_s: float) -> float:
        """How long to wait for those who are absent; ``started_s``: since when the fleet can be heard.

        Nobody is heard where the broker has just come up, too: without nodes there is no other plan to hurry for.
        """
        timing = self._timing
        if not self._here:
            return started_s + timing.await_s
        last_s = max(started_s, self._first_s) + timing.adopt_most_s
        if any(self._is_on_its_way(node) for node in self.absent()):
            return last_s
        return min(max(started_s, self._newest_s) + timing.adopt_s, last_s)

    def _is_on_its_way(self, node: str) -> bool:
        """Is a node about to say what it holds? It is here and has not said it, or the broker has forgotten it."""
        known = self._fleet.nodes.get(node)
        return known is None or (known.usable and known.heartbeat is None)


def listed(names: Sequence[str]) -> str:
    """One name or more, in words."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def not_heard(names: Sequence[str]) -> str:
    """That these nodes are missing from a ring."""
    several = len(names) > 1
    return f"{listed(names)} {'are not heard of with their parts' if several else 'is not heard of with its part'}"
