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
from orchestrator.effects import Effect, Halt, Note, OpenModel, Publish, SaveNode, command
from orchestrator.events import (
    BusDown,
    BusUp,
    Cancelled,
    Commanded,
    Event,
    FleetDivided,
    Interrupted,
    JobFailed,
    ModelOpened,
    ModelUnusable,
    NodeSaid,
    PlanHeard,
    PlanPreviewed,
    PlanSolved,
    SegmentsBuilt,
    StandbyPlanned,
    Stopping,
    Submitted,
    TokensHeard,
)
from orchestrator.fleet import Drained, Flagged, FleetChange, FleetState, Joined, Left, Restored, Tell, Trusted
from orchestrator.health import HealthLimits
from orchestrator.pipeline import Pipeline
from orchestrator.pipelines import PipelineOptions, Pipelines
from orchestrator.plans import ServingSettings
from orchestrator.rates import RateMeter
from orchestrator.requests import RequestDesk
from schemas.messages import Heartbeat, StreamError
from schemas.topics import REQUEST_STREAM


class Core:
    """An orchestrator: a service that clients ask, and the pipelines that answer."""

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
        pipelines: int | None = None,
        limits: HealthLimits | None = None,
        balance: bool = True,
    ) -> None:
        """``model`` is opened at the start; None waits for ``use_model``. ``pipelines``: how many a person wants; None
        takes as many as give most. ``balance``: move layers when nodes become slower or quicker."""
        timing = timing or Timing()
        self.fleet = FleetState(heartbeat_timeout_s=timing.heartbeat_timeout_s, limits=limits)
        options = PipelineOptions(
            generation=generation,
            min_nodes=min_nodes,
            max_queued=max_queued,
            blob_urls=blob_urls,
            balance=balance,
            wanted=pipelines,
        )
        self.name = settings.pipeline
        self.pipelines = Pipelines(self.fleet, settings, timing, options)
        self.control = ControlDesk()
        self.opening: str | None = model
        """The model that is being opened."""
        self._bus_is_up = False
        self._tokens: dict[str, RateMeter] = {}

    def serving(self) -> tuple[Pipeline, ...]:
        """Pipelines that have nodes."""
        return tuple(self.pipelines.working())

    def tokens_per_s(self, pipeline: str, now_s: float) -> float:
        """What a pipeline generates now, over all its requests."""
        return self._tokens[pipeline].per_s(now_s) if pipeline in self._tokens else 0.0

    def drain(self, node: str, drained: bool, now_s: float) -> list[Effect]:
        """An operator wants a node to be empty, or no longer."""
        return self._fleet_changes(self.fleet.set_drained(node, drained), now_s)

    @property
    def pipeline(self) -> Pipeline:
        """The only one, or the one that speaks for all."""
        return self.pipelines.lead

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
        return min(fleet_s, self.pipelines.next_deadline_s(opening=self.opening is not None))

    def _dispatch(self, event: Event, now_s: float) -> list[Effect]:
        match event:
            case NodeSaid():
                return self._node_said(event, now_s)
            case TokensHeard():
                self._tokens.setdefault(event.pipeline, RateMeter()).add(event.frame.count, now_s)
                return self.pipelines.tokens(event, now_s)
            case Submitted():
                return self.pipelines.submit(event.request, now_s)
            case Cancelled():
                return self.pipelines.cancel(event.client, event.cancel, now_s)
            case Commanded():
                return self.control.handle(event.command, self, now_s)
            case PlanSolved():
                return self.pipelines.solved(event.job, event.outcome, now_s)
            case PlanPreviewed():
                return self.control.previewed(event.job, event.explanation, self.pipelines, now_s)
            case SegmentsBuilt():
                self.pipelines.built(event.job, event.segments)
            case StandbyPlanned():
                return self.pipelines.standby_planned(event)
            case FleetDivided():
                return self.pipelines.divided(event, now_s)
            case JobFailed():
                if event.job < 0:
                    return self.control.preview_failed(event.job, event.reason)
                return self.pipelines.job_failed(event.job, event.reason, now_s)
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
                return self.pipelines.stop()
        return []

    def _advance(self, now_s: float) -> list[Effect]:
        """Let time act and do what has become possible."""
        effects: list[Effect] = []
        if self._bus_is_up:
            effects += self._fleet_changes(self.fleet.expire(now_s), now_s)
        effects += self.pipelines.advance(now_s)
        effects += self.control.plan_outcomes(self.pipelines)
        return effects + self.pipelines.serve(now_s, opening=self.opening is not None)

    # --- the bus ----------------------------------------------------------------------------------------------

    def _bus_up(self, event: BusUp, now_s: float) -> list[Effect]:
        self._bus_is_up = True
        self.fleet.hold_clock(now_s)
        if event.reconnect:
            return [Note("the broker is back", kind="broker"), *self.pipelines.republish(now_s)]
        self.pipelines.start(now_s)
        if self.opening:
            return [OpenModel(self.opening)]
        self.pipelines.no_model("no model is active: run linguabus model add SOURCE, then linguabus model use NAME")
        return []

    def _plan_heard(self, event: PlanHeard) -> list[Effect]:
        effects, superseded = self.pipelines.heard_plan(event.plan, retained=event.retained)
        if superseded:
            name = event.plan.pipeline
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
        return effects + self.pipelines.node_said(event.node, event.message, now_s)

    def _fleet_changes(self, changes: list[FleetChange], now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for change in changes:
            match change:
                case Joined(birth):
                    effects += [Note(f"node {birth.node} is here", kind="joined", node=birth.node), SaveNode(birth)]
                    effects += self.pipelines.joined(birth.node, now_s)
                case Left(node, reason, leaving):
                    self.pipelines.left(now_s)
                    kind = "left" if leaving else "lost"
                    note = Note(f"node {node} is gone: {reason}", warning=not leaving, kind=kind, node=node)
                    effects.append(note)
                case Drained(node, reason):
                    self.pipelines.drained(node, now_s)
                    effects.append(Note(f"node {node} gives up its layers: {reason}", kind="drained", node=node))
                case Restored(node):
                    self.pipelines.restored(now_s)
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
            self.pipelines.no_model(event.reason)
            note = Note(f"model {event.name} can't be served: {event.reason}", warning=True, kind="model")
            return [note, *self.control.model_opened(event.reason, self.director)]
        self.pipelines.use_model(event.model, now_s)
        return [Note(f"model {event.name} is open", kind="model"), *self.control.model_opened("", self.director)]

    def status(self) -> dict[str, Any]:
        """What ``linguabus status`` shows; JSON-able."""
        director = self.director
        return {
            "pipeline": self.name,
            "state": "opening model" if self.opening else director.state(),
            "reason": "" if director.active or director.busy or self.opening else director.why_none.reason,
            "model": director.model.name if director.model else None,
            "epoch": str(director.active.plan.epoch) if director.active else None,
            "nodes": len(self.fleet.usable()),
            "open_requests": sum(pipeline.requests.open_count for pipeline in self.pipelines.all),
            "queued_requests": sum(pipeline.requests.queued_count for pipeline in self.pipelines.all),
            "tokens_dropped": sum(pipeline.requests.tokens_dropped for pipeline in self.pipelines.all),
            "last_failure": director.last_failure,
            "generation": director.succession.epochs.generation,
            "progress": self.pipelines.progress(),
            "moves": director.succession.moves_view(),
            "pipelines": [pipeline.status() for pipeline in self.pipelines.working()],
        }
