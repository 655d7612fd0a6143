"""All pipelines of a service: one, or several that share the fleet and the requests (pure).

Clients ask the service by its name, which is the first pipeline's too. Where many answers at once are wanted and the
fleet can hold the model more than once, the fleet is divided (`partition`) and every pipeline plans with its own
nodes; a request goes where it will be answered first (`routing`). Otherwise the first pipeline has all nodes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.deployment.epochs import Epochs
from orchestrator.deployment.plan import ReplanDone, ServingSettings
from orchestrator.effects import Effect, Listen
from orchestrator.events import GrammarCompiled, PromptEncoded, PromptUnusable, SavedRequest, TokensHeard
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.profiles import Profiles
from orchestrator.model.served import ServedModel
from orchestrator.pipelines.allocation import AllocationRules, NodeAllocator
from orchestrator.pipelines.due import DuePipelines
from orchestrator.pipelines.options import PipelineOptions
from orchestrator.pipelines.outcomes import Outcomes
from orchestrator.pipelines.partition import pipeline_names
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.routing import even_out, place
from orchestrator.pipelines.token_rate import RateMeter
from orchestrator.pipelines.worker_answers import WorkerAnswers, WorkerEvent
from orchestrator.planning.problem import Problem
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.planner_input import PlannerInput
from orchestrator.timing import Timing
from schemas.messages import (
    CancelRequest,
    FetchProgress,
    NodeBirth,
    NodeProfile,
    Plan,
    PlanConstraints,
    ProfileView,
    SubmitRequest,
)


class PipelinePool:
    """Pipelines by name, the service's own first. There is always that one."""

    def __init__(self, fleet: FleetState, settings: ServingSettings, timing: Timing, options: PipelineOptions) -> None:
        self._fleet = fleet
        self._settings = settings
        self._timing = timing
        self._options = options
        self._names = frozenset(pipeline_names(settings.pipeline))
        self._jobs = Jobs()
        self._due = DuePipelines()
        self.rates: dict[str, RateMeter] = {}
        self._division_due_s = math.inf
        self._advancing: set[str] = set()
        """Between ``advance`` and ``serve``: those that have something to do."""
        self._before: dict[str, tuple[Any, ...]] = {}
        self._epochs = Epochs(options.generation)
        self._all: dict[str, Pipeline] = {}
        self._outcomes = Outcomes()
        self._listen: list[Effect] = []
        self.profiles = Profiles()
        rules = AllocationRules(wanted=options.wanted, min_nodes=options.min_nodes, settle_s=timing.settle_s)
        planner_input = PlannerInput(settings, fleet, self.profiles, options.blob_urls)
        self._allocator = NodeAllocator(fleet, self._all, self._add, settings, rules, planner_input, self._jobs)
        self._answers = WorkerAnswers(self._all, self._jobs, self._allocator, self._due)
        self._all[settings.pipeline] = self._make(settings.pipeline)
        self.touch_all()

    def _make(self, name: str, *, resting: bool = False) -> Pipeline:
        return Pipeline(
            self._fleet,
            replace(self._settings, pipeline=name),
            self._timing,
            epochs=self._epochs,
            min_nodes=self._options.min_nodes,
            max_queued=self._options.max_queued,
            blob_urls=self._options.blob_urls,
            service=self._settings.pipeline,
            profiles=self.profiles,
            jobs=self._jobs,
            is_dividing=lambda: self._allocator.pending,
            resting=resting,
            balance=self._options.balance,
        )

    def _add(self, name: str) -> Pipeline:
        """Add a pipeline beside the first, with no nodes as yet."""
        pipeline = self._all[name] = self._make(name, resting=True)
        pipeline.follow(self.lead)
        self._listen.append(Listen(name))
        self.touch_all()
        return pipeline

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def all(self) -> tuple[Pipeline, ...]:
        return tuple(self._all.values())

    @property
    def lead(self) -> Pipeline:
        """The pipeline that speaks for all where only one can."""
        return self._allocator.lead

    @property
    def generation(self) -> int:
        """The generation of the epochs that plans get from now on."""
        return self._epochs.generation

    @property
    def busy(self) -> bool:
        """Is a plan, or a division of the fleet, on its way or due?"""
        return self._allocator.pending or any(pipeline.busy for pipeline in self.all)

    @property
    def is_hopeless(self) -> bool:
        """Is there neither a plan nor one on its way?"""
        return not self._allocator.pending and all(pipeline.is_hopeless for pipeline in self.all)

    def working(self) -> list[Pipeline]:
        """The pipelines that have nodes or requests."""
        return [one for one in self.all if not one.is_unused]

    def nodes_in_use(self) -> frozenset[str]:
        """Names of the nodes of all plans, in force or on their way."""
        return frozenset().union(*(one.nodes_in_use() for one in self.all))

    def progress(self) -> dict[str, FetchProgress]:
        """Bytes of the segments on their way to the nodes."""
        return {node: done for pipeline in self.all for node, done in pipeline.progress().items()}

    def take_outcome(self) -> ReplanDone | None:
        """Take the outcome of the last change of plans, once nothing is on its way any more; told once."""
        self._outcomes.collect(self.all)
        return self._outcomes.take() if self._outcomes and not self.busy else None

    def preview(self, constraints: PlanConstraints) -> Problem:
        """The planner's question with other constraints, asked of all nodes that are here.

        Raises:
            PlanningError, BadConstraint: there is nothing to ask; the message says why.
        """
        return self._allocator.preview(constraints)

    def profiles_view(self, now_s: float) -> tuple[ProfileView, ...]:
        """What the nodes that are here measured with the model."""
        model = self.lead.model
        return self.profiles.view(self._fleet.usable(), model.manifest, now_s) if model else ()

    def wanted_with(self, constraints: PlanConstraints) -> int | None:
        """How many pipelines there would be with other constraints; None: as many as give most."""
        return self._allocator.wanted_with(constraints)

    def tokens_per_s(self, pipeline: str, now_s: float) -> float:
        """Tokens per second that a pipeline generates now, over all its requests."""
        return self.rates[pipeline].per_s(now_s) if pipeline in self.rates else 0.0

    # --- orders -----------------------------------------------------------------------------------------------

    def touch_all(self) -> None:
        """Something happened that any pipeline may have to do with."""
        self._due.touch(self._all)

    def start(self, now_s: float) -> None:
        """Begin to plan, a moment from now, when the fleet is believed to be complete."""
        self.touch_all()
        self._allocator.start(now_s + self._timing.start_s)
        for pipeline in self.all:
            if not pipeline.is_resting:
                pipeline.start(now_s)

    def use_model(self, model: ServedModel, now_s: float) -> None:
        """Serve this model from the next plans on."""
        self.touch_all()
        for pipeline in self.all:
            pipeline.use_model(model)
        self._allocator.force(now_s)

    def no_model(self, reason: str) -> None:
        """There is no model that could be served."""
        self.touch_all()
        for pipeline in self.all:
            pipeline.no_model(reason)

    def use_constraints(self, constraints: PlanConstraints) -> None:
        """Respect these constraints in all plans from now on."""
        self.touch_all()
        for pipeline in self.all:
            pipeline.use_constraints(constraints)

    def force(self, now_s: float, *, only: Collection[str] | None = None) -> None:
        """Plan as soon as possible, whatever it gains; ``only`` these pipelines, each with the nodes that it has."""
        if only is None:
            self.touch_all()
            self._allocator.force(now_s)
            return
        self._due.touch(only)
        for name in only:
            self._all[name].force(now_s)

    # --- nodes ------------------------------------------------------------------------------------------------

    def joined(self, node: str, now_s: float) -> list[Effect]:
        """Note that a node can be used, and tell it what it missed."""
        self.restored(now_s)
        return self._tell_again(node)

    def _tell_again(self, node: str) -> list[Effect]:
        """Tell a node that is back, perhaps only on the bus, what it missed meanwhile."""
        effects = [effect for pipeline in self.all for effect in pipeline.requests.node_returned(node)]
        return effects + [effect for pipeline in self.all for effect in pipeline.standby.node_returned(node)]

    def restored(self, now_s: float) -> None:
        """Note that a node that was to give up its layers may have some again."""
        self.touch_all()
        if self._allocator.sole and not self._allocator.wants_several:
            self._allocator.sole.joined(now_s)

    def left(self, now_s: float) -> None:
        """A node can't be used any more."""
        self.touch_all()
        if self._allocator.sole and not self._allocator.wants_several:
            self._allocator.sole.left(now_s)

    def drained(self, node: str, now_s: float) -> None:
        """Note that a node should give up its layers."""
        self.touch_all()
        for pipeline in self.all:
            pipeline.drained(node, now_s)

    def node_said(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's message about a segment, a request or itself."""
        if isinstance(message, NodeProfile):
            self.touch_all()
            for pipeline in self.all:
                pipeline.eligibility.measured(message, now_s)
            return self.lead.node_said(node, message, now_s)  # profiles are shared
        effects: list[Effect] = []
        for pipeline in self._all.values():
            planned_s = pipeline.planned_s
            effects += pipeline.node_said(node, message, now_s)
            if pipeline.planned_s != planned_s or node in pipeline.nodes_in_use():
                self._due.touch((pipeline.name,))
        return effects + self._tell_again(node) if isinstance(message, NodeBirth) else effects

    def answered(self, event: WorkerEvent, now_s: float) -> list[Effect]:
        """Take in what the worker has found, for the pipeline that asked."""
        return self._answers.take(event, now_s)

    # --- the bus ----------------------------------------------------------------------------------------------

    def heard_plan(self, plan: Plan, *, retained: bool) -> tuple[list[Effect], bool]:
        """Take in a plan on the bus. One that an earlier start has left is adopted or taken down.

        Returns:
            Effects, and whether another orchestrator has taken over.
        """
        if plan.pipeline not in self._names:
            return [], False
        if not self._epochs.go_above(plan):
            return [], self._epochs.is_superseded_by(plan)
        self._found(plan, is_left=retained, is_kept=True)
        return [], False

    def _found(self, plan: Plan, *, is_left: bool = True, is_kept: bool) -> None:
        self.touch_all()
        pipeline = self._all.get(plan.pipeline) or self._add(plan.pipeline)
        if is_left:
            pipeline.adopter.found(plan, is_kept=is_kept)
        left = [one for one in self.all if one.adopter.plan]
        if len(left) > 1 or self._allocator.wants_several:
            for one in left:
                one.adopter.refuse("the fleet is to be divided anew")

    def restore(self, saved: Sequence[SavedRequest], plans: Sequence[Plan], now_s: float) -> None:
        """Go on with the requests of an earlier start, in its plans if they are still in force."""
        self.touch_all()
        for plan in plans:
            if plan.pipeline in self._names and self._epochs.go_above(plan):
                self._found(plan, is_kept=False)
        self.all[0].requests.restore(saved, now_s)

    def cut_off(self) -> None:
        """The broker is out of reach: no node of a plan that is to be adopted is missed meanwhile."""
        for pipeline in self.all:
            pipeline.adopter.start(math.inf)

    def republish(self, now_s: float) -> list[Effect]:
        """Say again what may be lost, after a while without a connection."""
        self.touch_all()
        for pipeline in self.all:
            pipeline.adopter.start(now_s)
        return [effect for pipeline in self.all for effect in pipeline.republish(now_s)]

    def stop(self, now_s: float) -> list[Effect]:
        """Stop all pipelines: the orchestrator ends."""
        return [effect for pipeline in self.all for effect in pipeline.stop(now_s)]

    # --- requests ---------------------------------------------------------------------------------------------

    def submit(self, request: SubmitRequest, now_s: float) -> list[Effect]:
        """Take in a client's request."""
        for pipeline in self.all:
            if pipeline.requests.knows(request.request):
                return pipeline.requests.submit(request, now_s)  # the same submission again
        lead = min(
            [pipeline for pipeline in self.all if pipeline.is_serving] or [self.lead],
            key=lambda pipeline: pipeline.requests.queued_count,
        )
        lead.balancing.asked(request.max_tokens, now_s)
        effects = lead.requests.submit(request, now_s, free_slots=max(0, lead.free_slots))
        self._place(request.request)
        return effects

    def prompt_made(self, event: PromptEncoded | GrammarCompiled | PromptUnusable) -> list[Effect]:
        """Take in a prompt that the worker has encoded, or could not encode: now its length is known."""
        effects = [effect for pipeline in self.all for effect in pipeline.requests.prompt_made(event)]
        self._place(event.request)
        return effects

    def _place(self, request: str) -> None:
        place(request, self.all)
        self._due.touch(one.name for one in self.all if one.requests.knows(request))

    def cancel(self, client: str, cancel: CancelRequest, now_s: float) -> list[Effect]:
        """End a request that its client has lost interest in."""
        self._due.touch(one.name for one in self.all if one.requests.knows(cancel.request))
        return [effect for one in self.all for effect in one.requests.cancel(client, cancel, now_s)]

    def tokens(self, heard: TokensHeard, now_s: float) -> list[Effect]:
        """Tokens of a pipeline's last stage."""
        pipeline = self._all.get(heard.pipeline) or self.all[0]  # which counts what is not its own
        before = pipeline.requests.tokens_taken
        effects = pipeline.requests.tokens(heard, now_s)
        if taken := pipeline.requests.tokens_taken - before:  # the others came twice, or of a plan before
            self.rates.setdefault(pipeline.name, RateMeter()).add(taken, now_s)
        if pipeline.requests.changed:
            self._due.touch((pipeline.name,))
        return effects

    # --- time -------------------------------------------------------------------------------------------------

    def next_deadline_s(self) -> float:
        """When ``advance`` and ``serve`` next have something to do."""
        return min(self._due.next_s, self._division_due_s)

    def advance(self, now_s: float) -> list[Effect]:
        """Let time act on the plans and requests of the pipelines that have something to do."""
        if now_s >= self._division_due_s:
            self.touch_all()
        self._before = self._outlines()
        effects = self._allocator.advance(now_s)
        self._division_due_s = self._allocator.next_deadline_s()
        self._due.touch(self._changed())
        self._advancing = self._due.take(now_s)
        for pipeline in self.all:
            if pipeline.name in self._advancing:
                effects += pipeline.advance(now_s)
        listen, self._listen = self._listen, []
        return [*listen, *effects]

    def serve(self, now_s: float, *, opening: bool) -> list[Effect]:
        """Open requests that wait, and tell the others for what. ``opening``: a model is being opened."""
        touched = self._advancing | even_out(self.all)
        effects: list[Effect] = []
        hopeless = self.is_hopeless and not opening
        for pipeline in self.all:
            if pipeline.name not in touched:
                continue
            if pipeline.is_serving:
                effects += pipeline.serve(now_s)
            missing = hopeless and not pipeline.is_serving
            effects += pipeline.wait(self.lead.report.why_none if missing else None, now_s)
            pipeline.requests.changed = False
            self._due.put_off(pipeline.name, pipeline.next_deadline_s(missing=missing))
        if self._changed():
            self.touch_all()  # what became of one may be what others have waited for
        return effects

    def _outlines(self) -> dict[str, tuple[Any, ...]]:
        """The outlines of all pipelines, on which others and the division of the fleet may depend."""
        return {one.name: (one.is_serving, *one.outline()) for one in self.all}

    def _changed(self) -> list[str]:
        """Pipelines whose outline is not what it was when ``advance`` began."""
        return [name for name, outline in self._outlines().items() if outline != self._before.get(name)]
