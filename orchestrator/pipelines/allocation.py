"""Which pipeline has which nodes (pure).

The fleet is divided anew whenever it has changed. A pipeline gets a node only when no other one uses it any more: one
that has to give nodes up plans without them first, and goes down if it can't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.deployment.plan import ServingSettings
from orchestrator.effects import DivideFleet, Effect, Note
from orchestrator.events import FleetDivided
from orchestrator.fleet.fleet import FleetState
from orchestrator.fleet.profiles import Profiles
from orchestrator.model.served import ServedModel
from orchestrator.pipelines.partition import WORTH_FORCED, Group, assign
from orchestrator.pipelines.partition_schedule import PartitionSchedule
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.planning.errors import BadConstraint, PlanningError
from orchestrator.planning.gain import LEAST_GAIN
from orchestrator.planning.problem import Objective, Problem
from orchestrator.replanning.constraints import PlanConstraints
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.problem_builder import problem_of
from schemas.messages import NodeBirth

_DIVISION = "/division"
"""Who asks the worker, where it is no pipeline: a name that none can have."""


@dataclass(frozen=True, kw_only=True)
class AllocationRules:
    """``wanted``: pipelines that a person asks for; None: as many as give most. The first division waits for
    ``min_nodes``, every one until the fleet has not changed for ``settle_s``."""

    wanted: int | None
    min_nodes: int
    settle_s: float
    blob_urls: tuple[str, ...]


class NodeAllocator:
    """Divides the fleet among ``pipelines``, the service's own first; ``add`` makes another one."""

    def __init__(
        self,
        fleet: FleetState,
        pipelines: Mapping[str, Pipeline],
        add: Callable[[str], Pipeline],
        settings: ServingSettings,
        rules: AllocationRules,
        profiles: Profiles,
        jobs: Jobs,
    ) -> None:
        self._fleet = fleet
        self._pipelines = pipelines
        self._add = add
        self._settings = settings
        self._rules = rules
        self._profiles = profiles
        self._jobs = jobs
        self._partition_schedule = PartitionSchedule(rules.settle_s)
        self._waits_for_profiles = False
        self._divided_once = False
        self._insists: set[str] = set()
        """Pipelines that are to plan anew whatever it gains, once their nodes are free."""

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def lead(self) -> Pipeline:
        """The one that speaks for all where only one can: the first that serves, or else has nodes."""
        pipelines = list(self._pipelines.values())
        serving = [one for one in pipelines if one.replanner.active and not one.is_resting]
        staffed = [one for one in pipelines if not one.is_resting]
        return (serving or staffed or pipelines)[0]

    @property
    def model(self) -> ServedModel | None:
        return self.lead.replanner.model

    @property
    def wants_several(self) -> bool:
        """Is the fleet to be divided, if it can be?"""
        return self.wanted_with(self.lead.replanner.constraints) != 1

    def wanted_with(self, constraints: PlanConstraints) -> int | None:
        """How many pipelines there should be with these constraints; None: as many as give most."""
        one = self._rules.wanted is None and constraints.goal is not Objective.THROUGHPUT
        return 1 if one or constraints.pins else self._rules.wanted

    @property
    def sole(self) -> Pipeline | None:
        """The pipeline that has all nodes."""
        return next((one for one in self._pipelines.values() if one.nodes.names is None), None)

    @property
    def pending(self) -> bool:
        """Is the fleet being divided, or about to be?"""
        return self.wants_several and self.model is not None and self._partition_schedule.pending

    def preview(self, constraints: PlanConstraints) -> Problem:
        """The planner's question with other constraints, asked of all nodes that are here.

        Raises:
            PlanningError, BadWish: there is nothing to ask; the message says why.
        """
        model, births = self.model, self._fleet.plannable()
        if self.sole or model is None or not births:
            return self.lead.replanner.preview(constraints)
        return self._problem(model, births, constraints)

    def _problem(self, model: ServedModel, births: Sequence[NodeBirth], constraints: PlanConstraints) -> Problem:
        profiles = self._profiles.of(births, model.manifest)
        return problem_of(self._settings, model.manifest, births, profiles, (), constraints, self._fleet.conditions())

    def next_deadline_s(self) -> float:
        """When ``advance`` next has something to do by time alone."""
        return self._partition_schedule.next_deadline_s() if self.pending else float("inf")

    # --- orders -----------------------------------------------------------------------------------------------

    def start(self, not_before_s: float) -> None:
        """Divide nothing before this."""
        self._partition_schedule.start(not_before_s)

    def force(self, now_s: float) -> None:
        """Plan as soon as possible, whatever it gains."""
        if self.wants_several:
            self._partition_schedule.force(now_s)
        elif self.sole:
            self.sole.replanner.force(now_s)
        else:
            self._insists = {self.lead.name}
            self._give({self.lead.name: None})

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> list[Effect]:
        """Divide the fleet if that is due, and see who can have which node."""
        effects = self._divide(self.model, now_s) if self.wants_several and self.model else []
        if not self.wants_several and not self.sole:
            self._give({self.lead.name: None})
        return effects + self._share(now_s)

    def _divide(self, model: ServedModel, now_s: float) -> list[Effect]:
        births = self._births()
        constraints, conditions = self.lead.replanner.constraints, self._fleet.conditions()
        refused = frozenset(birth.node for birth in births if constraints.refusal(birth.node, conditions[birth.node]))
        self._partition_schedule.notice(
            (model.name, refused, *((birth.node, birth.incarnation) for birth in births)), now_s
        )
        if self._waits_for_profiles and self._profiles.awaited_until_s(births, model.manifest, now_s) <= now_s:
            self._partition_schedule.wait_until(now_s)
        if not self._partition_schedule.is_due(now_s):
            return []
        self._waits_for_profiles = False
        if len(births) < 2 or (not self._divided_once and len(births) < self._rules.min_nodes):
            self._partition_schedule.begin(None)
            return self._leave_to(self.lead, now_s)
        asked = self._profiles.ask(births, model, self._rules.blob_urls, self._settings.wire_dtype, now_s)
        until_s = self._profiles.awaited_until_s(births, model.manifest, now_s)
        if until_s > now_s:
            self._waits_for_profiles = True
            self._partition_schedule.wait_until(until_s)
            return asked
        try:
            problem = self._problem(model, births, constraints)
        except (PlanningError, BadConstraint):
            self._partition_schedule.begin(None)
            return self._leave_to(self.lead, now_s)  # its director says what is wrong
        job = self._jobs.begin(_DIVISION)
        self._partition_schedule.begin(job)
        self._divided_once = True
        margin = WORTH_FORCED if self._partition_schedule.forced else LEAST_GAIN
        kept = self._at_work(model, frozenset(device.name for device in problem.eligible))
        return [*asked, DivideFleet(job, problem, kept, self._rules.wanted, margin)]

    def _births(self) -> tuple[NodeBirth, ...]:
        directors = [pipeline.replanner for pipeline in self._pipelines.values()]
        births = self._fleet.plannable()
        return tuple(birth for birth in births if not any(replanner.excludes(birth) for replanner in directors))

    def _at_work(self, model: ServedModel, here: Group) -> tuple[Group, ...]:
        """Groups of nodes that are, or are about to be, a pipeline that can stay."""
        kept = []
        for pipeline in self._pipelines.values():
            nodes, active = frozenset(pipeline.replanner.nodes_in_use()), pipeline.replanner.active
            if nodes and nodes <= here and not (active and active.plan.model is not model):
                kept.append(nodes)
        return tuple(kept)

    def divided(self, event: FleetDivided, now_s: float) -> list[Effect]:
        """The planner's answer."""
        if event.job != self._partition_schedule.job:
            return []
        forced = self._partition_schedule.end()
        here = {birth.node for birth in self._births()}
        if not self.wants_several or not all(group <= here for group in event.groups):
            if forced:
                self.force(now_s)
            return []  # the fleet has changed, which has been noticed
        at_work = {name: frozenset(one.replanner.nodes_in_use()) for name, one in self._pipelines.items()}
        given = assign(event.groups, at_work, self._settings.pipeline)
        if len(given) < 2:
            name = next(iter(given), self.lead.name)
            return self._leave_to(self._pipelines.get(name) or self._add(name), now_s, forced=forced)
        before = {name: one.nodes.names for name, one in self._pipelines.items()}
        self._give(given)
        self._insists = set(given) if forced else set()
        for name in self._insists:
            self._pipelines[name].awaits_nodes = True
        if {name: names for name, names in before.items() if names} == given:
            return []
        shown = "; ".join(f"{name} on {', '.join(sorted(given[name]))}" for name in sorted(given))
        return [Note(f"{len(given)} pipelines, predicted {event.tokens_per_s:.1f} tokens/s together: {shown}")]

    def failed(self, job: int, reason: str, now_s: float) -> list[Effect]:
        """The planner could not divide the fleet."""
        if job != self._partition_schedule.job:
            return []
        self._partition_schedule.end()
        return [Note(f"one pipeline only: {reason}", warning=True), *self._leave_to(self.lead, now_s)]

    # --- who has what -----------------------------------------------------------------------------------------

    def _leave_to(self, pipeline: Pipeline, now_s: float, *, forced: bool | None = None) -> list[Effect]:
        """One pipeline has all nodes, and plans as it would alone."""
        forced = self._partition_schedule.end() if forced is None else forced
        self._insists = {pipeline.name} if forced else set()
        if pipeline.nodes.names is not None:
            self._give({pipeline.name: None})
        elif forced or not pipeline.replanner.active:
            pipeline.replanner.force(now_s)
        else:
            pipeline.replanner.joined(now_s)
        return []

    def _give(self, given: Mapping[str, Group | None]) -> None:
        """Give each pipeline its nodes; those not named get none."""
        model = self.model
        for name in given:
            if name not in self._pipelines:
                self._add(name)
        for pipeline in self._pipelines.values():
            before, names = pipeline.nodes.names, given.get(pipeline.name, frozenset())
            pipeline.nodes.names = names
            if before == frozenset():
                pipeline.replanner.model = model
            if names is not None:
                pipeline.replanner.min_nodes = 1  # the division has waited for them all
            in_use = pipeline.replanner.nodes_in_use()
            pipeline.gives_nodes_back = names == frozenset() and bool(in_use)
            has_more = before is not None and (names is None or not names <= before)
            pipeline.awaits_nodes = not pipeline.is_resting and (has_more or pipeline.has_to_shed() or not in_use)

    def _share(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        pipelines = list(self._pipelines.values())
        here = {birth.node for birth in self._fleet.usable()}
        for pipeline in pipelines:
            effects += pipeline.give_nodes_back()
            others = (other.replanner.nodes_in_use() for other in pipelines if other is not pipeline)
            pipeline.nodes.held_elsewhere = frozenset().union(*others)
        for pipeline in pipelines:
            names = here if pipeline.nodes.names is None else pipeline.nodes.names
            if pipeline.awaits_nodes and not pipeline.gives_nodes_back:
                if not names & pipeline.nodes.held_elsewhere:
                    self._staffed(pipeline, now_s)
                elif pipeline.has_to_shed():  # its new nodes are not free before it gives up some: it can't wait
                    self._send_home(pipeline)
            elif pipeline.has_to_shed() and not pipeline.replanner.busy and self._is_waited_for(pipeline):
                self._send_home(pipeline)
            pipeline.replanner.on_hold = (
                self.pending or pipeline.is_resting or pipeline.awaits_nodes or pipeline.gives_nodes_back
            )
        return effects

    def _staffed(self, pipeline: Pipeline, now_s: float) -> None:
        """A pipeline has all of its nodes: it plans with them, or, if it can go on without, looks whether that pays."""
        pipeline.awaits_nodes = False
        if pipeline.replanner.active and not pipeline.has_to_shed() and pipeline.name not in self._insists:
            pipeline.replanner.joined(now_s)
        else:
            self._insists.discard(pipeline.name)
            pipeline.replanner.force(now_s)

    def _is_waited_for(self, pipeline: Pipeline) -> bool:
        """Does another pipeline wait for nodes of this one?"""
        in_use = pipeline.replanner.nodes_in_use()
        waiting = (one.nodes.names for one in self._pipelines.values() if one.awaits_nodes)
        return any(names is None or names & in_use for names in waiting)

    def _send_home(self, pipeline: Pipeline) -> None:
        """Let a pipeline go down, one at a time, and plan afresh."""
        if not any(one.gives_nodes_back for one in self._pipelines.values()):
            pipeline.gives_nodes_back = pipeline.awaits_nodes = True
