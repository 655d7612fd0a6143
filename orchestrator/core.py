"""The orchestrator's decisions: ``handle(event, now_s) -> effects`` (pure).

`fleet` knows who is there, a `pipeline` which plan is in force and who waits for what. This module passes events to
them and brings their results together.
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator.config import Timing
from orchestrator.control import ControlDesk
from orchestrator.director import PlanDirector
from orchestrator.events import (
    BusDown,
    BusUp,
    Cancelled,
    Commanded,
    Effect,
    Event,
    Halt,
    Interrupted,
    JobFailed,
    ModelOpened,
    ModelUnusable,
    NodeSaid,
    Note,
    OpenModel,
    PlanHeard,
    PlanPreviewed,
    PlanSolved,
    Publish,
    SaveNode,
    SegmentsBuilt,
    Stopping,
    Submitted,
    TokensHeard,
)
from orchestrator.fleet import Drained, Flagged, FleetChange, FleetState, Joined, Left, Restored, Tell, Trusted
from orchestrator.health import HealthLimits
from orchestrator.pipeline import Pipeline
from orchestrator.plans import ServingSettings
from orchestrator.rates import RateMeter
from orchestrator.requests import RequestDesk, command
from schemas.messages import Heartbeat, StreamError
from schemas.topics import REQUEST_STREAM


class Core:
    """One pipeline's orchestrator."""

    def __init__(
        self,
        settings: ServingSettings,
        *,
        generation: int,
        model: str | None,
        min_nodes: int = 1,
        max_queued: int = 64,
        blob_urls: tuple[str, ...],
        timing: Timing | None = None,
        limits: HealthLimits | None = None,
    ) -> None:
        """``model`` is opened at the start; None waits for ``use_model``."""
        timing = timing or Timing()
        self.fleet = FleetState(heartbeat_timeout_s=timing.heartbeat_timeout_s, limits=limits)
        self.pipeline = Pipeline(
            self.fleet,
            settings,
            timing,
            generation=generation,
            min_nodes=min_nodes,
            max_queued=max_queued,
            blob_urls=blob_urls,
        )
        self.control = ControlDesk()
        self.opening: str | None = model
        """The model that is being opened."""
        self._bus_is_up = False
        self._tokens: dict[str, RateMeter] = {}

    def serving(self) -> tuple[Pipeline, ...]:
        """All pipelines."""
        return (self.pipeline,)

    def tokens_per_s(self, pipeline: str, now_s: float) -> float:
        """What a pipeline generates now, over all its requests."""
        return self._tokens[pipeline].per_s(now_s) if pipeline in self._tokens else 0.0

    def drain(self, node: str, drained: bool, now_s: float) -> list[Effect]:
        """An operator wants a node to be empty, or no longer."""
        return self._fleet_changes(self.fleet.set_drained(node, drained), now_s)

    @property
    def director(self) -> PlanDirector:
        return self.pipeline.director

    @property
    def requests(self) -> RequestDesk:
        return self.pipeline.requests

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take in one event; ``now_s`` is a monotonic clock's."""
        effects = self._dispatch(event, now_s)
        return effects if isinstance(event, Stopping) else effects + self._advance(now_s)

    def next_deadline_s(self) -> float:
        """When a ``Tick`` is due; infinity when only events can change anything."""
        fleet_s = self.fleet.next_expiry_s() if self._bus_is_up else math.inf
        requests_s = self.requests.next_deadline_s(refusing=self._is_refusing)
        return min(fleet_s, requests_s, self.director.next_deadline_s())

    @property
    def _is_refusing(self) -> bool:
        """Is there neither a plan nor one on its way?"""
        return self.pipeline.is_hopeless and not self.opening

    def _dispatch(self, event: Event, now_s: float) -> list[Effect]:
        match event:
            case NodeSaid():
                return self._node_said(event, now_s)
            case TokensHeard():
                self._tokens.setdefault(event.pipeline, RateMeter()).add(event.frame.count, now_s)
                return self.requests.tokens(event, now_s)
            case Submitted():
                return self.requests.submit(event.request, now_s)
            case Cancelled():
                return self.requests.cancel(event.client, event.cancel, now_s)
            case Commanded():
                return self.control.handle(event.command, self, now_s)
            case PlanSolved():
                return self.director.solved(event.job, event.outcome, now_s)
            case PlanPreviewed():
                return self.control.previewed(event.job, event.explanation, self.director, now_s)
            case SegmentsBuilt():
                self.director.built(event.job, event.segments)
            case JobFailed():
                if event.job < 0:
                    return self.control.preview_failed(event.job, event.reason)
                return self.director.job_failed(event.job, event.reason)
            case ModelOpened() | ModelUnusable():
                return self._model(event, now_s)
            case PlanHeard():
                return self._plan_heard(event)
            case BusUp():
                return self._bus_up(event, now_s)
            case BusDown():
                self._bus_is_up = False
                return [Note("the broker is out of reach", warning=True, kind="broker")]
            case Interrupted():
                return self._interrupted(event)
            case Stopping():
                return self.pipeline.stop()
        return []

    def _advance(self, now_s: float) -> list[Effect]:
        """Let time act and do what has become possible."""
        effects: list[Effect] = []
        if self._bus_is_up:
            effects += self._fleet_changes(self.fleet.expire(now_s), now_s)
        effects += self.pipeline.advance(now_s)
        effects += self.control.plan_outcomes(self.director)
        if self.pipeline.is_serving:
            effects += self.pipeline.serve(now_s)
        elif self._is_refusing:
            effects += self.requests.refuse_waiting(self.director.why_none, now_s)
        return effects

    # --- the bus ----------------------------------------------------------------------------------------------

    def _bus_up(self, event: BusUp, now_s: float) -> list[Effect]:
        self._bus_is_up = True
        self.fleet.hold_clock(now_s)
        if event.reconnect:
            return [Note("the broker is back", kind="broker"), *self.pipeline.republish(now_s)]
        self.director.start(now_s)
        if self.opening:
            return [OpenModel(self.opening)]
        self.director.no_model("no model is active: run linguabus model add SOURCE, then linguabus model use NAME")
        return []

    def _plan_heard(self, event: PlanHeard) -> list[Effect]:
        effects, superseded = self.director.heard_plan(event.plan, retained=event.retained)
        if superseded:
            name = self.pipeline.name
            reason = f"another orchestrator has taken over pipeline {name} on this broker: run only one of them"
            return [*effects, Halt(reason)]
        return effects

    def _interrupted(self, event: Interrupted) -> list[Effect]:
        reason = "the orchestrator was restarted during the answer: ask again"
        return [
            Publish(
                REQUEST_STREAM.format(client=client, request=request),
                StreamError(request=request, code="failed", reason=reason),
            )
            for client, request in event.requests
        ]

    # --- nodes ------------------------------------------------------------------------------------------------

    def _node_said(self, event: NodeSaid, now_s: float) -> list[Effect]:
        if getattr(event.message, "node", event.node) != event.node:
            return []  # speaks for somebody else
        changes = self.fleet.apply(event.node, event.message, now_s, retained=event.retained)
        effects = self._fleet_changes(changes, now_s)
        if isinstance(event.message, Heartbeat) and not self.fleet.is_believed(event.node):
            return effects
        return effects + self.pipeline.node_said(event.node, event.message, now_s)

    def _fleet_changes(self, changes: list[FleetChange], now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for change in changes:
            match change:
                case Joined(birth):
                    self.director.joined(now_s)
                    effects += [Note(f"node {birth.node} is here", kind="joined", node=birth.node), SaveNode(birth)]
                    effects += self.requests.node_returned(birth.node)
                case Left(node, reason):
                    self.director.left(now_s)
                    note = Note(f"node {node} is gone: {reason}", warning=True, kind="lost", node=node)
                    effects.append(note)
                case Drained(node, reason):
                    self.director.drained(node, now_s)
                    effects.append(Note(f"node {node} gives up its layers: {reason}", kind="drained", node=node))
                case Restored(node):
                    self.director.joined(now_s)
                    effects.append(Note(f"node {node} may have layers again", kind="restored", node=node))
                case Flagged(node, reason):
                    text = f"node {node} is not believed: {reason}"
                    effects.append(Note(text, warning=True, kind="flagged", node=node))
                case Trusted(node):
                    effects.append(Note(f"node {node} is believed again", kind="trusted", node=node))
                case Tell(node, order):
                    effects.append(command(node, order))
        return effects

    # --- the model --------------------------------------------------------------------------------------------

    def open_model(self, name: str) -> list[Effect]:
        """Open a model to serve it as soon as its plan is rolled out."""
        self.opening = name
        return [OpenModel(name)]

    def _model(self, event: ModelOpened | ModelUnusable, now_s: float) -> list[Effect]:
        if event.name != self.opening:
            return []
        self.opening = None
        if isinstance(event, ModelUnusable):
            self.director.no_model(event.reason)
            note = Note(f"model {event.name} can't be served: {event.reason}", warning=True, kind="model")
            return [note, *self.control.model_opened(event.reason, self.director)]
        self.director.use_model(event.model, now_s)
        return [Note(f"model {event.name} is open", kind="model"), *self.control.model_opened("", self.director)]

    def status(self) -> dict[str, Any]:
        """What ``linguabus status`` shows; JSON-able."""
        director = self.director
        return {
            "pipeline": self.pipeline.name,
            "state": "opening model" if self.opening else director.state(),
            "reason": "" if director.active or director.busy or self.opening else director.why_none.reason,
            "model": director.model.name if director.model else None,
            "epoch": str(director.active.plan.epoch) if director.active else None,
            "nodes": len(self.fleet.usable()),
            "open_requests": self.requests.open_count,
            "queued_requests": self.requests.queued_count,
            "tokens_dropped": self.requests.tokens_dropped,
            "last_failure": director.last_failure,
            "generation": director.generation,
            "progress": director.progress(),
        }
