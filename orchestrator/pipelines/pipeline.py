"""One pipeline: its nodes, its plan and its requests (pure).

`replanner` knows which plan is in force and when to make another, `scheduler` who waits for what. This module passes
events to both and tells each what it needs to know of the other.
"""

from __future__ import annotations

from typing import Any

from orchestrator.balancing.pipeline_balancer import PipelineBalancer
from orchestrator.deployment.epochs import Epochs
from orchestrator.deployment.plan import ServingSettings
from orchestrator.deployment.plan_view import plan_view
from orchestrator.deployment.standby import StandbyUnits
from orchestrator.effects import Effect, Note
from orchestrator.events import StandbyPlanned
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.pipeline_nodes import PipelineNodes
from orchestrator.fleet.profiles import Profiles
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.replanner import Replanner
from orchestrator.requests.scheduler import RequestScheduler
from orchestrator.timing import Timing
from schemas.messages import RequestClosed, RequestFailed


class Pipeline:
    """A plan's director and the desk of the requests that it serves."""

    def __init__(
        self,
        fleet: FleetState,
        settings: ServingSettings,
        timing: Timing,
        *,
        epochs: Epochs,
        min_nodes: int,
        max_queued: int,
        blob_urls: tuple[str, ...],
        service: str,
        profiles: Profiles,
        jobs: Jobs,
        balance: bool = True,
    ) -> None:
        """``service``: the name that clients ask, the first pipeline's."""
        self.name = settings.pipeline
        self.nodes = PipelineNodes(fleet)
        self.gives_nodes_back = False
        """Its nodes are wanted elsewhere: it goes down as soon as no request is open."""
        self.awaits_nodes = False
        """It is to plan anew as soon as its nodes are free."""
        self.requests = RequestScheduler(
            pipeline=settings.pipeline,
            service=service,
            max_queued=max_queued,
            timing=timing,
            draft_tokens=settings.draft_tokens,
        )
        self.replanner = Replanner(
            self.nodes,
            self.requests,
            settings,
            timing,
            epochs=epochs,
            min_nodes=min_nodes,
            blob_urls=blob_urls,
            profiles=profiles,
            jobs=jobs,
        )
        self.balancing = PipelineBalancer(
            self.nodes, profiles, self.replanner.switchover.migration_to, self.replanner.decisions
        )
        if balance:
            self.replanner.balancing, self.replanner.judge = self.balancing, self.balancing.judge
        self.standby = StandbyUnits(settings.pipeline, blob_urls)

    # --- figures ----------------------------------------------------------------------------------------------

    @property
    def is_resting(self) -> bool:
        """Has it no nodes?"""
        return self.nodes.names == frozenset()

    @property
    def is_serving(self) -> bool:
        """May a request be opened now, as soon as a slot is free?"""
        return self.replanner.active is not None and not self.replanner.draining and not self.gives_nodes_back

    @property
    def busy(self) -> bool:
        """Is a plan on its way, or due?"""
        if self.is_resting:
            return self.gives_nodes_back
        return self.replanner.busy or self.awaits_nodes or self.gives_nodes_back

    @property
    def is_hopeless(self) -> bool:
        """Is there neither a plan nor one on its way?"""
        return not self.replanner.active and not self.busy

    @property
    def is_given_up(self) -> bool:
        """Should requests no longer wait here, if there is another pipeline?"""
        return self.is_resting or self.gives_nodes_back or self.is_hopeless

    @property
    def free_slots(self) -> int:
        """Of the plan in force."""
        active = self.replanner.active
        return active.plan.slots - self.requests.open_count if active else 0

    def has_to_shed(self) -> bool:
        """Does it use nodes that are not its own any more?"""
        names = self.nodes.names
        return names is not None and not self.replanner.nodes_in_use() <= names

    def outline(self) -> tuple[Any, ...]:
        """What it has and waits for, as far as others have to do with it; equal as long as that has not changed."""
        replanner, requests, nodes = self.replanner, self.requests, self.nodes
        has = (replanner.active, replanner.nodes_in_use(), requests.open_count, requests.queued_count)
        awaits = (self.awaits_nodes, self.gives_nodes_back, nodes.names, nodes.held_elsewhere)
        return (*has, *awaits, replanner.busy, replanner.on_hold, replanner.planned_s)

    # --- events -----------------------------------------------------------------------------------------------

    def node_said(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's message about a segment, a request or itself."""
        effects = self.replanner.reply(node, message, now_s)
        match message:
            case RequestFailed():
                effects += self.requests.failed(message)
            case RequestClosed() if message.timing.node == node:
                effects += self.requests.closed(message)
        return effects

    def advance(self, now_s: float) -> list[Effect]:
        """Let time act."""
        effects = self.requests.tick(now_s)
        if self.replanner.ring_is_broken(now_s):
            effects += self.requests.ring_broken(now_s)
            effects += self.replanner.drop_ring(now_s)
        effects += self.replanner.advance(now_s)
        if self.replanner.active and not self.busy:
            plan = self.replanner.active.plan
            effects += self.standby.ask(plan, lambda: self.replanner.preview(self.replanner.constraints))
        elif self.is_resting and not self.replanner.active:
            effects += self.standby.give_up()
        return effects

    def next_deadline_s(self, *, refusing: bool) -> float:
        """When ``advance`` or ``serve`` (or, with ``refusing``, refusing what waits) next have something to do."""
        return min(self.requests.next_deadline_s(refusing=refusing), self.replanner.next_deadline_s())

    def standby_planned(self, answer: StandbyPlanned) -> list[Effect]:
        """The planner has found which units of its neighbours each node should keep."""
        return self.standby.planned(answer, self.replanner.active.plan if self.replanner.active else None)

    def give_nodes_back(self) -> list[Effect]:
        """Go down if no request is open any more."""
        if not self.gives_nodes_back or self.requests.open_count:
            return []
        self.gives_nodes_back = False
        return [Note(f"pipeline {self.name} gives its nodes back"), *self.replanner.stop()]

    def serve(self, now_s: float) -> list[Effect]:
        """Open requests that wait, as far as there are slots."""
        assert self.replanner.active
        return self.requests.admit(self.replanner.active, now_s)

    def republish(self, now_s: float) -> list[Effect]:
        """The connection was lost for a while, and with it perhaps what was said."""
        return [*self.replanner.switchover.republish(), *self.requests.missed_messages(now_s)]

    def stop(self) -> list[Effect]:
        """The orchestrator ends: requests first, then the nodes."""
        return [*self.requests.stop(), *self.replanner.stop()]

    def plan_view(self) -> dict[str, Any]:
        """What ``linguabus plan`` shows of the plan in force; JSON-able."""
        active = self.replanner.active
        assert active
        return {
            "state": self.replanner.state(),
            **plan_view(active.plan, active.ready),
            "standby": self.standby.view(active.plan, self.nodes.nodes),
            "moves": self.replanner.switchover.moves_view(),
        }

    def status(self) -> dict[str, Any]:
        """JSON-able."""
        active = self.replanner.active
        return {
            "pipeline": self.name,
            "state": self.replanner.state(),
            "model": active.plan.model.name if active else None,
            "epoch": str(active.plan.epoch) if active else None,
            "nodes": list(dict.fromkeys(active.plan.nodes)) if active else [],
            "open_requests": self.requests.open_count,
            "queued_requests": self.requests.queued_count,
            "moves": self.replanner.switchover.moves_view(),
            "predicted_tokens_per_s": active.plan.solution.predicted.tokens_per_s if active else None,
            "predicted_tokens_per_s_many": active.plan.solution.predicted.tokens_per_s_many if active else None,
        }
