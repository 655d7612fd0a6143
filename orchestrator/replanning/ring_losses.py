"""What becomes of a ring at work when a node of it is missing, or computes what is of no use (pure)."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.deployment.open_requests import OpenRequests
from orchestrator.deployment.switchover import Switchover
from orchestrator.effects import Effect, Note
from orchestrator.replanning.eligibility import Eligibility
from orchestrator.replanning.report import PlanningReport
from schemas.messages import Heartbeat, RequestFailed, SegmentFailed


class RingLosses:
    """Keeps a ring that may work again, gives up one that will not, and has the next plan made without the node."""

    def __init__(
        self,
        switchover: Switchover,
        requests: OpenRequests,
        eligibility: Eligibility,
        report: PlanningReport,
        *,
        pipeline: str,
        plan_anew: Callable[[float], None],
    ) -> None:
        """``plan_anew`` has a plan made at once, whatever is being planned."""
        self._switchover = switchover
        self._requests = requests
        self._eligibility = eligibility
        self._report = report
        self._pipeline = pipeline
        self._plan_anew = plan_anew

    def advance(self, now_s: float) -> list[Effect]:
        """Do what is due about nodes of the ring that are missing, or back."""
        effects = self._look_for_another(now_s) if now_s >= self._switchover.ring_breaks_s() else []
        back = self._switchover.returned()
        return [*effects, *self._go_on(back, now_s)] if back else effects

    def _look_for_another(self, now_s: float) -> list[Effect]:
        """Look for a plan without what is missing; if the ring may work again, it is kept until there is one."""
        effects, is_kept = self._switchover.keep_ring(now_s)
        if not is_kept:
            return [*effects, *self._drop_ring(now_s)]
        self._plan_anew(now_s)
        return effects

    def _go_on(self, back: frozenset[str], now_s: float) -> list[Effect]:
        """Let the ring go on, with all that its nodes knew, once all that were awaited are back."""
        told = Note(f"{', '.join(sorted(back))} is back in time", kind="returned", pipeline=self._pipeline)
        if self._switchover.missing.awaited:
            return [told]
        return [told, *self._switchover.give_up_next(), *self._requests.ring_returned(now_s)]

    def broken_by(self, node: str, message: SegmentFailed, now_s: float) -> list[Effect]:
        """Go on without a node of the working ring that is here, but can't be used for it any more."""
        plan = self._switchover.active
        assert plan
        self._report.last_failure = f"{node}: {message.reason}"
        told = self._eligibility.failed(plan.plan, node, message.reason, message.code, now_s)
        return [*told, *self._drop_ring(now_s, without=node, why=message.reason)]

    def heard(self, node: str, beat: Heartbeat, now_s: float) -> list[Effect]:
        """Go on without a node that rests, once its part of the working ring is gone: that it said so may be lost."""
        why = self._eligibility.why_rests(node)
        if not why or not self._switchover.has_lost_stage(node, beat):
            return []
        self._report.last_failure = f"{node}: it rests: {why}"
        return self._drop_ring(now_s, without=node, why=f"it rests: {why}")

    def step_failed(self, failure: RequestFailed, now_s: float) -> list[Effect]:
        """Go on in another ring after a failure of the working one, and without the node at fault, if one is."""
        active = self._switchover.active
        assert active
        suspect = failure.suspect if failure.suspect in active.plan.nodes else None
        why = f"it sent {failure.node} what is not finite" if failure.code == "bad_input" else failure.reason
        self._report.last_failure = f"{suspect or failure.node}: {why}"
        told = self._eligibility.failed(active.plan, suspect, why, failure.code, now_s) if suspect else []
        return [*told, *self._drop_ring(now_s, without=suspect or failure.node, why=why)]

    def _drop_ring(self, now_s: float, *, without: str = "", why: str = "") -> list[Effect]:
        """Give up the working ring. Unless another is ready, plan again at once."""
        effects = self._switchover.drop_ring(now_s, without=without, why=why)
        if self._switchover.active:
            self._report.succeeded(changed=True)
        else:
            self._plan_anew(now_s)
        return effects
