"""What the orchestrator's events and an operator's commands act on: the fleet, the pipelines, the model (pure)."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.deployment.plan import ServingSettings
from orchestrator.effects import Effect, Note, OpenModel, command
from orchestrator.fleet.changes import (
    Crowded,
    Drained,
    Flagged,
    FleetChange,
    Grown,
    Joined,
    Left,
    Restored,
    Roused,
    Tell,
    Trusted,
)
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.health import HealthLimits
from orchestrator.fleet.silence import SilenceLimits
from orchestrator.pipelines.life_signs import at_work, needed
from orchestrator.pipelines.options import PipelineOptions
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.pipeline_status import status_of
from orchestrator.pipelines.pool import PipelinePool
from orchestrator.pipelines.readers import Readers
from orchestrator.requests.scheduler import RequestScheduler
from orchestrator.requests.story import Stories
from orchestrator.timing import Timing
from schemas.messages import NodeView, StatusReply


class ControlPlane:
    """The fleet, the pipelines, and the model that is being opened for them."""

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
        self.fleet = FleetState(silence=SilenceLimits(timing.heartbeat_timeout_s, timing.silence_s), limits=limits)
        options = PipelineOptions(
            generation=generation,
            min_nodes=min_nodes,
            max_queued=max_queued,
            blob_urls=blob_urls,
            balance=balance,
            wanted=pipelines,
        )
        self.name = settings.pipeline
        self._kv_dtype = settings.kv_dtype
        self._draft = settings.draft
        self.pipelines = PipelinePool(self.fleet, settings, timing, options)
        self.fleet.arrivals.in_use = self.pipelines.nodes_in_use
        self.readers = Readers(self.pipelines, timing)
        self.opening: str | None = model
        """The model that is being opened."""
        self.stories = Stories()

    def serving(self) -> tuple[Pipeline, ...]:
        """The pipelines that have nodes or requests."""
        return tuple(self.pipelines.working())

    def drain(self, node: str, drained: bool, now_s: float) -> list[Effect]:
        """An operator wants a node to be empty, or no longer."""
        return self.fleet_changes(self.fleet.set_drained(node, drained), now_s)

    def forgive(self, node: str, now_s: float) -> None:
        """Forget a node's failures, as an operator wishes: it may be given layers again."""
        self.pipelines.touch_all()
        for pipeline in self.pipelines.all:
            if pipeline.eligibility.forgive(node):
                pipeline.joined(now_s)

    def nodes_view(self, now_s: float) -> tuple[NodeView, ...]:
        """Every node, and why it is given no layers."""
        failures: dict[str, str] = {}
        for pipeline in self.pipelines.all:
            failures |= pipeline.eligibility.failures()
        return tuple(
            replace(view, drained="; ".join(filter(None, (failures[view.node], view.drained))))
            if view.node in failures
            else view
            for view in self.fleet.view(now_s)
        )

    @property
    def pipeline(self) -> Pipeline:
        """The only pipeline, or the one that speaks for all."""
        return self.pipelines.lead

    @property
    def requests(self) -> RequestScheduler:
        return self.pipeline.requests

    def fleet_changes(self, changes: list[FleetChange], now_s: float) -> list[Effect]:
        """Tell the pipelines, and those who read the log, what became of nodes."""
        effects: list[Effect] = []
        for change in changes:
            match change:
                case Joined(birth):
                    effects.append(Note(f"node {birth.node} is here", kind="joined", node=birth.node))
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
                case Grown(node, by):
                    self.pipelines.restored(now_s)
                    effects.append(Note(f"node {node} may use {by} of memory more", kind="grown", node=node))
                case Roused(node, reason):
                    self.pipelines.restored(now_s)
                    effects.append(Note(f"node {node} rests no longer; {reason}", kind="restored", node=node))
                case Flagged(node, reason):
                    text = f"node {node} is not believed: {reason}"
                    effects.append(Note(text, warning=True, kind="flagged", node=node))
                case Trusted(node):
                    effects.append(Note(f"node {node} is believed again", kind="trusted", node=node))
                case Crowded(node, reason):
                    text = f"node {node} is not let in yet: {reason}; others may be kept waiting, too"
                    effects.append(Note(text, warning=True, kind="crowded", node=node))
                case Tell(node, order):
                    effects.append(command(node, order))
        return effects

    def miss_silent_nodes(self, heard_until_s: float, now_s: float) -> list[Effect]:
        """Count nodes as lost that were silent for too long, by the time until which all is handled that was heard."""
        for nodes, newest_s in at_work(self.pipelines.all, self.pipelines.rates):
            self.fleet.worked(nodes, newest_s)
        return self.fleet_changes(self.fleet.expire(heard_until_s), now_s)

    def needs_others(self, now_s: float) -> bool:
        """Do open requests need other nodes than when this was last asked? Those are missed sooner."""
        return self.fleet.need(needed(self.pipelines.all), now_s)

    def open_model(self, name: str) -> list[Effect]:
        """Open a model to serve it as soon as its plan is rolled out."""
        self.opening = name
        return [OpenModel(name, self._kv_dtype, self._draft)]

    def models_in_use(self) -> frozenset[str]:
        """Names of the models whose files plans, or the next plans, need."""
        opening = {name for name in (self.opening, self._draft) if name} if self.opening else set()
        return frozenset(opening.union(*(pipeline.models_in_use() for pipeline in self.pipelines.all)))

    def _why_none(self, pipeline: Pipeline) -> str:
        """Why a pipeline has no plan, or which nodes the one that was left waits for; else empty."""
        if pipeline.adopter.waiting:
            return pipeline.adopter.waiting
        return "" if pipeline.active or pipeline.is_planning or self.opening else pipeline.report.why_none.reason

    def status(self) -> StatusReply:
        """The state of the service, for operators."""
        pipeline = self.pipeline
        active, model = pipeline.active, pipeline.model
        return StatusReply(
            pipeline=self.name,
            state="opening model" if self.opening else pipeline.state(),
            reason=self._why_none(pipeline),
            model=model.name if model else None,
            epoch=str(active.plan.epoch) if active else None,
            nodes=len(self.fleet.usable()),
            max_message_bytes=self.fleet.max_message_bytes(),
            open_requests=sum(one.requests.open_count for one in self.pipelines.all),
            queued_requests=sum(one.requests.queued_count for one in self.pipelines.all),
            tokens_dropped=sum(one.requests.tokens_dropped for one in self.pipelines.all),
            last_failure=pipeline.report.last_failure,
            left_out=pipeline.eligibility.left_out(),
            generation=self.pipelines.generation,
            progress=self.pipelines.progress(),
            moves=pipeline.moves_view(),
            pipelines=tuple(status_of(one) for one in self.pipelines.working()),
            tool_format=model.tokenizer.tool_format if model else None,
        )
