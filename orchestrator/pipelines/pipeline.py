"""One pipeline: its nodes, its plan and its requests (pure).

Other objects ask a pipeline and give it orders; its parts are its own. The replanner knows when to make another plan,
the switchover which one is in force, ``requests`` who waits for what. This module passes events to them and tells each
what it needs to know of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from orchestrator.balancing.pipeline_balancer import PipelineBalancer
from orchestrator.deployment.epochs import Epochs
from orchestrator.deployment.plan import NoPlan, ReadyPlan, ServingSettings
from orchestrator.deployment.standby import StandbyUnits
from orchestrator.deployment.switchover import Switchover
from orchestrator.effects import Effect, Note
from orchestrator.events import StandbyPlanned
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.profiles import Profiles
from orchestrator.model.served import BuiltSegment, ServedModel
from orchestrator.pipelines.allocation_state import AllocationState, NodeAllocation
from orchestrator.pipelines.failed_requests import request_failed
from orchestrator.pipelines.partition import Group
from orchestrator.pipelines.pipeline_nodes import PipelineNodes
from orchestrator.pipelines.waiting import tell_silent, waits_for, wanted_back
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.replanning.adopter import Adopter
from orchestrator.replanning.eligibility import Eligibility
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.planner_input import PlannerInput
from orchestrator.replanning.replanner import Replanner
from orchestrator.replanning.report import PlanningReport
from orchestrator.replanning.target import PlanTarget
from orchestrator.requests.leftovers import Leftovers
from orchestrator.requests.patience import WaitsFor
from orchestrator.requests.scheduler import RequestScheduler
from orchestrator.timing import Timing
from schemas.messages import (
    FetchProgress,
    Heartbeat,
    MasksWanted,
    MovesView,
    NodeBirth,
    PlanConstraints,
    PlanOnItsWay,
    RequestClosed,
    RequestFailed,
)


class Pipeline:
    """A pipeline: its nodes, the plan for them, and the scheduler of the requests that it serves."""

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
        is_dividing: Callable[[], bool],
        resting: bool = False,
        balance: bool = True,
    ) -> None:
        """``service``: the name that clients ask, the first pipeline's. ``is_dividing``: whether it is being decided
        which pipeline has which nodes. ``resting``: it has none as yet, or else all."""
        self.name = settings.pipeline
        self._timing = timing
        self._allocation = NodeAllocation(resting=resting)
        self._nodes = PipelineNodes(fleet, self._allocation, min_nodes=min_nodes, is_dividing=is_dividing)
        self.requests = RequestScheduler(
            pipeline=settings.pipeline,
            service=service,
            max_queued=max_queued,
            timing=timing,
            draft_tokens=settings.draft_tokens,
        )
        self._target = PlanTarget()
        self.eligibility = Eligibility(self._nodes, exclude_s=timing.exclude_s)
        """Which nodes its plans may use."""
        self.report = PlanningReport(settings.pipeline)
        """Why there is no plan, or no better one."""
        self._switchover = Switchover(self._nodes, self.requests, profiles, timing, epochs, blob_urls=blob_urls)
        self.migration_to = self._switchover.migration_to
        self.balancing = PipelineBalancer(self._nodes, profiles, self.migration_to, self.report.decisions)
        planner_input = PlannerInput(settings, fleet, profiles, blob_urls)
        self.adopter = Adopter(
            self._nodes, settings, timing, target=self._target, planner_input=planner_input, jobs=jobs,
            switchover=self._switchover,
        )  # fmt: skip
        self._replanner = Replanner(
            self._nodes, self.requests, self._switchover, settings, timing, target=self._target,
            eligibility=self.eligibility, report=self.report, planner_input=planner_input, jobs=jobs,
            adopter=self.adopter, balancing=self.balancing if balance else None,
        )  # fmt: skip
        self.standby = StandbyUnits(settings.pipeline, blob_urls)
        self._leftovers = Leftovers(timing.leftover_s)

    # --- its plan ---------------------------------------------------------------------------------------------

    @property
    def active(self) -> ReadyPlan | None:
        """The plan in force."""
        return self._switchover.active

    @property
    def model(self) -> ServedModel | None:
        """The model that the pipeline's plans are to serve."""
        return self._target.model

    def models_in_use(self) -> set[str]:
        """Names of the models of its plan, of the plan on its way, and of what plans are to serve."""
        plans = [one.plan for one in (self._switchover.active, self._switchover.next) if one]
        models = [plan.model for plan in plans] + ([self.model] if self.model else [])
        return {name for model in models for name in model.names}

    @property
    def constraints(self) -> PlanConstraints:
        """The constraints that the pipeline's plans are to respect."""
        return self._target.constraints

    @property
    def is_serving(self) -> bool:
        """May a request be opened now, as soon as a slot is free?"""
        if self.active is None or self.active.plan.model is not self.model:
            return False  # a plan for another model is to follow
        is_held = self._switchover.draining or self._switchover.missing.awaited or self.allocation_state.goes_down
        return not is_held

    @property
    def is_planning(self) -> bool:
        """Is a plan on its way, or due, for the nodes that the pipeline has?"""
        return self._replanner.busy

    @property
    def busy(self) -> bool:
        """Is a plan, or the end of one, on its way or due?"""
        state = self.allocation_state
        return self.is_planning or state.awaits_nodes if state.has_nodes else state.goes_down

    @property
    def is_hopeless(self) -> bool:
        """Is there neither a plan nor one on its way?"""
        return not self.active and not self.busy

    @property
    def is_given_up(self) -> bool:
        """Should requests no longer wait here, if there is another pipeline?"""
        return self.is_resting or self.allocation_state.goes_down or self.is_hopeless

    @property
    def is_unused(self) -> bool:
        """Has the pipeline neither nodes nor requests?"""
        return self.is_resting and not self.active and self.requests.idle

    @property
    def free_slots(self) -> int:
        """Slots of the plan in force that no request holds."""
        return self.active.plan.slots - self.requests.open_count if self.active else 0

    def state(self) -> str:
        """The state in a word or two for people."""
        return self._replanner.state()

    def progress(self) -> dict[str, FetchProgress]:
        """Bytes of the segments on their way to its nodes."""
        return self._switchover.progress()

    def moves_view(self) -> MovesView:
        """Live moves: the one under way, and what became of the others."""
        return self._switchover.moves_view()

    def preview(self, constraints: PlanConstraints | None = None) -> Problem:
        """The planner's question about the pipeline's nodes, with other constraints or its own.

        Raises:
            PlanningError, BadConstraint: there is nothing to ask; the message says why.
        """
        return self._replanner.preview(self.constraints if constraints is None else constraints)

    @property
    def planned_s(self) -> float:
        """When the next plan is to be made; infinity when none is."""
        return self._replanner.planned_s

    # --- its nodes --------------------------------------------------------------------------------------------

    @property
    def allocation_state(self) -> AllocationState:
        """The state of the pipeline with regard to its nodes."""
        return self._allocation.state

    @property
    def node_names(self) -> Group | None:
        """Names of the nodes that the pipeline has been given; None: every node."""
        return self._allocation.names

    @property
    def is_resting(self) -> bool:
        """Has the pipeline no nodes?"""
        return not self.allocation_state.has_nodes

    @property
    def nodes_are_free(self) -> bool:
        """Is none of the pipeline's nodes held by another one?"""
        return self._nodes.are_free()

    def nodes_in_use(self) -> set[str]:
        """Names of the nodes of the plan in force, and of the one on its way."""
        return self._replanner.nodes_in_use()

    def has_to_shed(self) -> bool:
        """Does the pipeline use nodes that are not its own any more?"""
        return self._allocation.has_to_shed(self.nodes_in_use())

    def assign(self, names: Group, *, anew: bool = False) -> None:
        """Have these nodes and no others; ``anew``: plan with them whatever that gains."""
        self._allocation.assign(names, self.nodes_in_use(), anew=anew)

    def assign_all(self, *, anew: bool = False) -> None:
        """Have every node of the fleet; ``anew``: plan with them whatever that gains."""
        self._allocation.assign_all(anew=anew)

    def release(self) -> None:
        """Have no nodes any more."""
        self._allocation.release(self.nodes_in_use())

    def restart(self) -> None:
        """Go down for the sake of other pipelines, and plan anew."""
        self._allocation.restart()

    def begin(self, now_s: float) -> None:
        """Plan with its nodes, which are all free, or, if it can go on without a new plan, look whether one pays."""
        anew = self._allocation.begin()
        if self.active and not self.has_to_shed() and not anew:
            self.joined(now_s)
        else:
            self.force(now_s)

    def give_nodes_back(self) -> list[Effect]:
        """Go down if the state says so and no request is open any more."""
        if not self.allocation_state.goes_down or self.requests.open_count:
            return []
        self._allocation.went_down()
        return [Note(f"pipeline {self.name} gives its nodes back"), *self._replanner.stop()]

    def hold_elsewhere(self, nodes: Set[str]) -> None:
        """Note the nodes that other pipelines use."""
        self._nodes.hold_elsewhere(nodes)

    def outline(self) -> tuple[Any, ...]:
        """What others may depend on: what the pipeline has and waits for. Equal as long as that has not changed."""
        has = (self.active, self.nodes_in_use(), self.requests.open_count, self.requests.queued_count)
        return (*has, *self._nodes.outline(), self.is_planning, self.planned_s)

    # --- what is wanted ---------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Begin to plan, a moment from now, when the fleet is believed to be complete."""
        self._replanner.start(now_s)

    def follow(self, lead: Pipeline) -> None:
        """Make plans for the model and under the constraints of another pipeline."""
        self._target.model, self._target.constraints = lead.model, lead.constraints

    def use_model(self, model: ServedModel) -> None:
        """Serve this model from the next plan on."""
        self._target.model = model

    def no_model(self, reason: str) -> None:
        """There is no model that could be served."""
        self._replanner.no_model(reason)

    def use_constraints(self, constraints: PlanConstraints) -> None:
        """Respect these constraints in all plans from now on."""
        self._target.constraints = constraints

    def force(self, now_s: float) -> None:
        """Plan as soon as possible, whatever a new plan gains."""
        self._replanner.force(now_s)

    def joined(self, now_s: float) -> None:
        """Note that a node can be used, perhaps in the place of one that should give up its layers."""
        self._replanner.joined(now_s)

    def left(self, now_s: float) -> None:
        """A node can't be used any more."""
        self._replanner.left(now_s)

    def drained(self, node: str, now_s: float) -> None:
        """Note that a node should give up its layers."""
        self._replanner.drained(node, now_s)

    # --- events -----------------------------------------------------------------------------------------------

    def node_said(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's message about a segment, a request or itself."""
        effects = self._replanner.reply(node, message, now_s)
        match message:
            case NodeBirth() if self.active and self.active.plan.is_too_long_for(message):
                self.force(now_s)
            case Heartbeat() if self.active:
                effects += self._leftovers.heard(message, self.active.plan, self.requests.sessions, now_s)
            case RequestFailed():
                effects += self._request_failed(message, now_s)
            case MasksWanted():
                effects += self.requests.forms.wanted(self.requests.sessions, node, message)
            case RequestClosed() if message.timing.node == node:
                effects += self.requests.closed(message)
        return effects

    def _request_failed(self, failure: RequestFailed, now_s: float) -> list[Effect]:
        losses = self._replanner.losses
        effects, forgiven = request_failed(failure, self.active, self.requests, losses, self.eligibility, now_s)
        if forgiven:
            self.joined(now_s)
        return effects

    def solved(self, job: int, outcome: Solution | Infeasible, now_s: float) -> list[Effect]:
        """The planner's answer."""
        return self._replanner.solved(job, outcome, now_s)

    def built(self, job: int, segments: tuple[BuiltSegment, ...]) -> list[Effect]:
        """Take in the graphs of the next plan."""
        too_long = self._switchover.built(job, segments)
        return self.job_failed(job, too_long) if too_long else []

    def job_failed(self, job: int, reason: str) -> list[Effect]:
        """Note that the worker could not do what it was asked."""
        return self._replanner.job_failed(job, reason)

    def standby_planned(self, answer: StandbyPlanned) -> list[Effect]:
        """Take in the planner's answer about which units of its neighbours each node should keep."""
        return self.standby.planned(answer, self.active.plan if self.active else None)

    def republish(self, now_s: float) -> list[Effect]:
        """Say again what may be lost, after a while without a connection."""
        return [*self._switchover.republish(), *self.requests.missed_messages(now_s)]

    def stop(self, now_s: float) -> list[Effect]:
        """See to the requests first, then let nodes unload: the orchestrator ends."""
        return [*self.requests.stop(now_s), *self._replanner.stop()]

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> list[Effect]:
        """Act on time: time-outs, plans that are due, standby units."""
        effects = self.requests.tick(now_s, missing=bool(self._switchover.missing.awaited))
        effects += self._replanner.advance(now_s)
        standing = self._waits_for().told if self._switchover.missing.awaited else ""
        effects += tell_silent(self.requests.sessions, self._nodes, standing, self._timing, now_s)
        if self.active and not (self.busy or self.requests.sessions.in_move):
            effects += self.standby.ask(self.active.plan, self.preview)
        elif self.is_resting and not self.active:
            effects += self.standby.give_up()
        return effects

    def serve(self, now_s: float) -> list[Effect]:
        """Open requests that wait, as far as there are slots."""
        assert self.active
        return self.requests.admit(self.active, now_s)

    def wait(self, why_none: NoPlan | None, now_s: float) -> list[Effect]:
        """Let requests wait that have no ring; ``why_none``: why there is no plan, and none on its way."""
        return self.requests.wait(self._waits_for(why_none), now_s)

    def _waits_for(self, why_none: NoPlan | None = None) -> WaitsFor:
        """What requests wait for that have no ring, or one that stands still."""
        switchover = self._switchover
        if switchover.missing.awaited and not self.busy:
            why_none = NoPlan("not_ready", self.report.why_it_stays or "nothing is heard of it")
        last = switchover.newest.plan if switchover.newest else None
        return waits_for(self, wanted_back(last, switchover.missing.of(last), self._nodes), why_none)

    def next_deadline_s(self, *, missing: bool) -> float:
        """When ``advance``, ``serve`` or ``wait`` next have something to do; ``missing`` as in `WaitsFor`."""
        missing = missing or bool(self._switchover.missing.awaited and not self.busy)
        return min(self.requests.next_deadline_s(missing=missing), self._replanner.next_deadline_s())

    # --- what operators see -----------------------------------------------------------------------------------

    def shown_plan(self) -> ReadyPlan | None:
        """The plan in force, or the one that was until now while another is on its way."""
        return self.active or (self._switchover.newest if self.busy and not self.is_resting else None)

    def next_view(self) -> PlanOnItsWay | None:
        """The plan that is to follow."""
        return self._switchover.next_view()
