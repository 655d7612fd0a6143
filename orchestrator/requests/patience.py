"""Patience: what requests wait for, and how their waiting ends when it does not come (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.requests.session import Phase, Session
from orchestrator.timing import Timing
from schemas.messages import ErrorCode


@dataclass(frozen=True)
class WaitsFor:
    """What the requests of a pipeline wait for that have no ring.

    ``missing``: nobody works on it, so that somebody has to come or to do something. Else it is their turn, or a plan
    on its way. ``code`` is that of the error with which patience ends. ``noun`` is what ``text`` is about, where that
    does not begin with it.
    """

    text: str
    code: ErrorCode
    missing: bool = False
    noun: str = ""

    @property
    def told(self) -> str:
        """What stands behind "waiting for"."""
        return f"{self.noun}: {self.text}" if self.noun else self.text

    @property
    def is_hopeless(self) -> bool:
        """Does waiting not help, because an operator has to decide something first?"""
        return self.code == "no_model"


def is_at_end(session: Session, waits_for: WaitsFor, timing: Timing, now_s: float) -> bool:
    """Has a request waited long enough?"""
    if session.retry_s <= now_s:
        session.retry_s = -math.inf
    if not waits_for.missing:
        session.missing_since_s = None
    elif session.missing_since_s is None:
        session.missing_since_s = now_s
    return waits_for.is_hopeless or now_s >= session.gives_up_s(timing, missing=waits_for.missing)


def end_of(session: Session, waits_for: WaitsFor, advice: str, now_s: float) -> tuple[ErrorCode, str]:
    """The error that ends a request whose patience is at its end; ``advice`` is for one that had no turn."""
    since_s = session.queued_s if session.missing_since_s is None else session.missing_since_s
    waited_s = now_s - since_s
    if session.phase is Phase.QUEUED and now_s >= session.expires_at_s:
        return "busy", f"it expired, as asked: no answer had begun in {session.submit.expires_s:g} s; {advice}"
    if waits_for.code == "busy":
        return "busy", f"no turn in {waited_s:.0f} s: {advice}"
    waited = f" (waited {waited_s:.0f} s)" if waited_s >= 1.0 else ""
    if session.interrupted_s is None and session.phase is Phase.QUEUED:
        return waits_for.code, f"{waits_for.text}{waited}"
    return "failed", f"a node was lost and the others can't go on: {waits_for.text}{waited}"
