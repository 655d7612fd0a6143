"""Requests that are over and that a node holds all the same (pure): nothing else would free their KV slots.

An orchestrator that ended, or was replaced, may have left an end unsaid. How many requests a node holds is in each of
its heartbeats.
"""

from __future__ import annotations

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import Effect, Note, command
from orchestrator.requests.session import Phase
from orchestrator.requests.session_table import SessionTable
from schemas.messages import Heartbeat, KeepRequests


class Leftovers:
    """Has nodes end what they hold for nobody."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: openings and ends may be on their way for so long."""
        self._patience_s = patience_s
        self._since_s: dict[str, float] = {}
        """Since when a node has held more than was known, by name."""

    def heard(self, beat: Heartbeat, plan: DeployedPlan, sessions: SessionTable, now_s: float) -> list[Effect]:
        """Take in what a node holds."""
        held = max(
            (s.open_requests for s in beat.stages if (s.pipeline, s.epoch) == (plan.pipeline, plan.epoch)), default=0
        )
        kept = tuple(session.request for session in sessions.in_phase(Phase.OPEN))
        if held <= len(kept):
            self._since_s.pop(beat.node, None)
            return []
        if now_s < self._since_s.setdefault(beat.node, now_s) + self._patience_s:
            return []
        self._since_s[beat.node] = now_s
        keep = KeepRequests(pipeline=plan.pipeline, epoch=plan.epoch, requests=kept)
        note = Note(f"{beat.node} holds {held} requests, {len(kept)} are open: it is told to end the others")
        return [note, command(beat.node, keep)]
