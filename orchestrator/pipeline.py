"""One pipeline: its plan and its requests (pure).

`director` knows which plan is in force and when to make another, `requests` who waits for what. This module passes
events to both and tells each what it needs to know of the other.
"""

from __future__ import annotations

from typing import Any

from orchestrator.config import Timing
from orchestrator.director import PlanDirector
from orchestrator.events import Effect
from orchestrator.fleet import FleetState
from orchestrator.plans import ServingSettings
from orchestrator.requests import RequestDesk
from schemas.messages import RequestClosed, RequestFailed


class Pipeline:
    """A plan's director and the desk of the requests that it serves."""

    def __init__(
        self,
        fleet: FleetState,
        settings: ServingSettings,
        timing: Timing,
        *,
        generation: int,
        min_nodes: int,
        max_queued: int,
        blob_urls: tuple[str, ...],
    ) -> None:
        self.name = settings.pipeline
        self.director = PlanDirector(
            fleet, settings, timing, generation=generation, min_nodes=min_nodes, blob_urls=blob_urls
        )
        self.requests = RequestDesk(
            pipeline=settings.pipeline, max_queued=max_queued, timing=timing, draft_tokens=settings.draft_tokens
        )

    @property
    def is_serving(self) -> bool:
        """May a request be opened now, as soon as a slot is free?"""
        return self.director.active is not None and not self.director.draining

    @property
    def is_hopeless(self) -> bool:
        """Is there neither a plan nor one on its way?"""
        return not self.director.active and not self.director.busy

    def node_said(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's message about a segment, a request or itself."""
        effects = self.director.reply(node, message, now_s)
        match message:
            case RequestFailed():
                effects += self.requests.failed(message)
            case RequestClosed() if message.timing.node == node:
                effects += self.requests.closed(message)
        return effects

    def advance(self, now_s: float) -> list[Effect]:
        """Let time act."""
        effects = self.requests.tick(now_s)
        if self.director.ring_is_broken(now_s):
            effects += self.requests.ring_broken(now_s)
            effects += self.director.drop_ring(now_s)
        return effects + self.director.advance(now_s, open_requests=self.requests.open_count, idle=self.requests.idle)

    def serve(self, now_s: float) -> list[Effect]:
        """Open requests that wait, as far as there are slots."""
        assert self.director.active
        return self.requests.admit(self.director.active, now_s)

    def republish(self, now_s: float) -> list[Effect]:
        """The connection was lost for a while, and with it perhaps what was said."""
        return [*self.director.republish(), *self.requests.missed_messages(now_s)]

    def stop(self) -> list[Effect]:
        """The orchestrator ends: requests first, then the nodes."""
        return [*self.requests.stop(), *self.director.stop()]
