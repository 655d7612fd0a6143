"""What becomes of a request that a stage can't go on with (pure)."""

from __future__ import annotations

from orchestrator.deployment.plan import ReadyPlan
from orchestrator.effects import Effect
from orchestrator.replanning.eligibility import Eligibility
from orchestrator.replanning.exclusions import STEP_FAILURES
from orchestrator.replanning.ring_losses import RingLosses
from orchestrator.requests.scheduler import RequestScheduler
from orchestrator.requests.session import Session
from schemas.messages import ErrorCode, RequestFailed


def request_failed(
    failure: RequestFailed,
    active: ReadyPlan | None,
    requests: RequestScheduler,
    losses: RingLosses,
    eligibility: Eligibility,
    now_s: float,
) -> tuple[list[Effect], bool]:
    """Let another ring go on with what a node can't compute; end what none can, and what is nobody's fault.

    Returns:
        Effects, and whether nodes that had been taken for the cause may be planned with again.
    """
    session = requests.sessions.concerned(failure)
    if session is None:
        return [], False
    if failure.code not in STEP_FAILURES or active is None or active.plan.epoch != failure.epoch:
        return _end(session, failure, requests, now_s), False
    verdict = session.step_failed(failure)
    if not verdict.why_end:
        return losses.step_failed(failure, now_s), False
    forgiven = [eligibility.forgive(node) for node in verdict.acquitted]
    return _end(session, failure, requests, now_s, verdict.why_end), any(forgiven)


def _end(
    session: Session, failure: RequestFailed, requests: RequestScheduler, now_s: float, why: str = ""
) -> list[Effect]:
    """End a request that no ring can go on with; ``why``: in other words than the stage's. One without room waits."""
    if failure.code == "busy":
        return requests.put_back(session, now_s)
    code: ErrorCode = "too_long" if failure.code == "too_long" else "failed"
    return requests.abandon(session, code, f"{failure.node}: {why or failure.reason}", now_s)
