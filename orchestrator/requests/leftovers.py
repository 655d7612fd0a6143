"""What is over and what a node holds all the same (pure): nothing else would free its memory.

An orchestrator that ended, or was replaced, may have left the end of a request unsaid, and a message that ends an epoch
may have come damaged. How many requests of which epochs a node holds is in each of its heartbeats.
"""

from __future__ import annotations

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import Effect, Note, command
from orchestrator.requests.session import Phase
from orchestrator.requests.session_table import SessionTable
from schemas.messages import Epoch, Heartbeat, KeepRequests, ReleaseSegment


class Leftovers:
    """Has nodes end what they hold for nobody."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: openings and ends may be on their way for so long."""
        self._patience_s = patience_s
        self._since_s: dict[tuple[str, Epoch], float] = {}
        """Since when a node has held more of an epoch than it should, by its name."""

    def heard(self, beat: Heartbeat, plan: DeployedPlan, sessions: SessionTable, now_s: float) -> list[Effect]:
        """Take in what a node holds."""
        held: dict[Epoch, int] = {}
        for stage in beat.stages:
            if stage.pipeline == plan.pipeline:
                held[stage.epoch] = max(held.get(stage.epoch, 0), stage.open_requests)
        kept = tuple(session.request for session in sessions.in_phase(Phase.OPEN))
        too_much = {epoch for epoch in held if epoch < plan.epoch}
        if held.get(plan.epoch, 0) > len(kept):
            too_much.add(plan.epoch)
        for key in [key for key in self._since_s if key[0] == beat.node and key[1] not in too_much]:
            del self._since_s[key]
        effects: list[Effect] = []
        for epoch in sorted(too_much):
            if now_s < self._since_s.setdefault((beat.node, epoch), now_s) + self._patience_s:
                continue
            self._since_s[beat.node, epoch] = now_s
            if epoch == plan.epoch:
                text = f"{beat.node} holds {held[epoch]} requests, {len(kept)} are open: it is told to end the others"
                end: KeepRequests | ReleaseSegment = KeepRequests(pipeline=plan.pipeline, epoch=epoch, requests=kept)
            else:
                text = f"{beat.node} holds layers of epoch {epoch}, which is over: it is told to let them go"
                end = ReleaseSegment(pipeline=plan.pipeline, epoch=epoch)
            effects += [Note(text), command(beat.node, end)]
        return effects
