"""Which pipeline has which nodes (pure).

The fleet is divided anew whenever it has changed. A pipeline gets a node only when no other one uses it any more: one
that has to give nodes up plans without them first, and goes down if it can't. What a pipeline goes through on
the way, and what may follow what, is in `allocation_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.deployment.plan import ServingSettings
from orchestrator.effects import DivideFleet, Effect, Note
from orchestrator.events import FleetDivided
from orchestrator.fleet.fleet import FleetState
from orchestrator.model.served import ServedModel
from orchestrator.pipelines.allocation_state import AllocationState
from orchestrator.pipelines.partition import WORTH_FORCED, Group, assign
from orchestrator.pipelines.partition_schedule import PartitionSchedule
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.planning.errors import BadConstraint, PlanningError
from orchestrator.planning.gain import LEAST_GAIN
from orchestrator.planning.problem import Objective, Problem
from orchestrator.replanning.constraints import named_nodes, refusal
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.planner_input import PlannerInput
from schemas.messages import NodeBirth, PlanConstraints
from schemas.names import unknown_node

_DIVISION = "/division"
"""Who asks the worker, where it is no pipeline: a name that none can have."""


@dataclass(frozen=True, kw_only=True)
class AllocationRules:
    """The rules of dividing the fleet. ``wanted``: pipelines that a person asks for; None: as many as give most.

    The first division waits for ``min_nodes``, every one until the fleet has not changed for ``settle_s``.
    """

    wanted: int | None
    min_nodes: int
    settle_s: float


class NodeAllocator:
    """Divides the fleet among ``pipelines``, the service's own first; ``add`` makes another one."""

    def __init__(
        self,
        fleet: FleetState,
        pipelines: Mapping[str, Pipeline],
        add: Callable[[str], Pipeline],
        settings: ServingSettings,
        rules: AllocationRules,
        planner_input: PlannerInput,
        jobs: Jobs,
    ) -> None:
        self._fleet = fleet
        self._pipelines = pipelines
        self._add = add
        self._settings = settings
        self._rules = rules
        self._input = planner_input
        self._jobs = jobs
        self._partition_schedule = PartitionSchedule(rules.settle_s)
        self._waits_for_profiles = False
        self._divided_once = False

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def lead(self) -> Pipeline:
        """The pipeline that speaks for all where only one can: the first that serves, or else has nodes."""
        pipelines = list(self._pipelines.values())
        serving = [one for one in pipelines if one.active and not one.is_resting]
        staffed = [one for one in pipelines if not one.is_resting]
        return (serving or staffed or pipelines)[0]

    @property
    def model(self) -> ServedModel | None:
        return self.lead.model

    @property
    def wants_several(self) -> bool:
        """Is the fleet to be divided, if it can be?"""
        return self.wanted_with(self.lead.constraints) != 1

    def wanted_with(self, constraints: PlanConstraints) -> int | None:
        """How many pipelines there should be with these constraints; None: as many as give most."""
        one = self._rules.wanted is None and Objective(constraints.objective) is not Objective.THROUGHPUT
        return 1 if one or constraints.pins else self._rules.wanted

    @property
    def sole(self) -> Pipeline | None:
        """The pipeline that has all nodes."""
        return next((one for one in self._pipelines.values() if one.node_names is None), None)

    @property
    def pending(self) -> bool:
        """Is the fleet being divided, or about to be?"""
        return self.wants_several and self.model is not None and self._partition_schedule.pending

    def preview(self, constraints: PlanConstraints) -> Problem:
        """The planner's question with other constraints, asked of all nodes that are here.

        Raises:
            PlanningError, BadConstraint: there is nothing to ask, or the constraints name a node that is unknown; the
                message says why.
        """
        model, births = self.model, self._fleet.plannable()
        if self.sole or model is None or not births:
            problem = self.lead.preview(constraints)
        else:
            problem = self._input.problem(model, births, constraints)
        known = {*self._fleet.names(), *named_nodes(self.lead.constraints)}  # one of these may be away, and forgotten
        if unknown := unknown_node(named_nodes(constraints), known):
            raise BadConstraint(unknown)
        return problem

    def next_deadline_s(self) -> float:
        """When ``advance`` next has something to do by time alone."""
        return self._partition_schedule.next_deadline_s() if self.pending else float("inf")

    # --- orders -----------------------------------------------------------------------------------------------

    def start(self, not_before_s: float) -> None:
        """Divide nothing before this time."""
        self._partition_schedule.start(not_before_s)

    def force(self, now_s: float) -> None:
        """Plan as soon as possible, whatever a new plan gains."""
        if self.wants_several:
            self._partition_schedule.force(now_s)
        elif self.sole:
            self.sole.force(now_s)
        else:
            self._give({self.lead.name: None}, anew=True)

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> list[Effect]:
        """Divide the fleet if that is due, and see who can have which node."""
        effects = self._divide(self.model, now_s) if self.wants_several and self.model else []
        if not self.wants_several and not self.sole:
            self._give({self.lead.name: None})
        return effects + self._share(now_s)

    def _divide(self, model: ServedModel, now_s: float) -> list[Effect]:
        births = self._births()
        constraints, conditions = self.lead.constraints, self._fleet.conditions()
        refused = frozenset(birth.node for birth in births if refusal(constraints, birth.node, conditions[birth.node]))
        self._partition_schedule.notice(
            (model.name, refused, *((birth.node, birth.incarnation) for birth in births)), now_s
        )
        if self._waits_for_profiles and self._input.awaited_until_s(births, model, now_s) <= now_s:
            self._partition_schedule.wait_until(now_s)
        if not self._partition_schedule.is_due(now_s):
            return []
        self._waits_for_profiles = False
        if len(births) < 2 or (not self._divided_once and len(births) < self._rules.min_nodes):
            self._partition_schedule.begin(None)
            return self._leave_to(self.lead, now_s)
        asked = self._input.measure(births, model, now_s)
        until_s = self._input.awaited_until_s(births, model, now_s)
        if until_s > now_s:
            self._waits_for_profiles = True
            self._partition_schedule.wait_until(until_s)
            return asked
        try:
            problem = self._input.problem(model, births, constraints)
        except (PlanningError, BadConstraint):
            self._partition_schedule.begin(None)
            return self._leave_to(self.lead, now_s)  # it says what is wrong
        job = self._jobs.begin(_DIVISION)
        self._partition_schedule.begin(job)
        self._divided_once = True
        margin = WORTH_FORCED if self._partition_schedule.forced else LEAST_GAIN
        kept = self._at_work(model, frozenset(device.name for device in problem.eligible))
        return [*asked, DivideFleet(job, problem, kept, self._rules.wanted, margin)]

    def _births(self) -> tuple[NodeBirth, ...]:
        pipelines = self._pipelines.values()
        births = self._fleet.plannable()
        return tuple(
            birth for birth in births if not any(pipeline.eligibility.excludes(birth) for pipeline in pipelines)
        )

    def _at_work(self, model: ServedModel, here: Group) -> tuple[Group, ...]:
        """Groups of nodes of pipelines that can stay as they are, with a plan in force or on its way."""
        kept = []
        for pipeline in self._pipelines.values():
            nodes, active = frozenset(pipeline.nodes_in_use()), pipeline.active
            if nodes and nodes <= here and not (active and active.plan.model is not model):
                kept.append(nodes)
        return tuple(kept)

    def divided(self, event: FleetDivided, now_s: float) -> list[Effect]:
        """Take in the planner's answer to how the fleet is to be divided."""
        if event.job != self._partition_schedule.job:
            return []
        forced = self._partition_schedule.end()
        here = {birth.node for birth in self._births()}
        if not self.wants_several or not all(group <= here for group in event.groups):
            if forced:
                self.force(now_s)
            return []  # the fleet has changed, which has been noticed
        at_work = {name: frozenset(one.nodes_in_use()) for name, one in self._pipelines.items()}
        given = assign(event.groups, at_work, self._settings.pipeline)
        if len(given) < 2:
            name = next(iter(given), self.lead.name)
            return self._leave_to(self._pipelines.get(name) or self._add(name), now_s, forced=forced)
        before = {name: one.node_names for name, one in self._pipelines.items() if one.node_names}
        self._give(given, anew=forced)
        if before == given:
            return []
        shown = "; ".join(f"{name} on {', '.join(sorted(given[name]))}" for name in sorted(given))
        return [Note(f"{len(given)} pipelines, predicted {event.tokens_per_s:.1f} tokens/s together: {shown}")]

    def failed(self, job: int, reason: str, now_s: float) -> list[Effect]:
        """Leave the fleet to one pipeline, because the planner could not divide it."""
        if job != self._partition_schedule.job:
            return []
        self._partition_schedule.end()
        return [Note(f"one pipeline only: {reason}", warning=True), *self._leave_to(self.lead, now_s)]

    # --- who has what -----------------------------------------------------------------------------------------

    def _leave_to(self, pipeline: Pipeline, now_s: float, *, forced: bool | None = None) -> list[Effect]:
        """Give one pipeline all nodes; it plans as it would alone."""
        forced = self._partition_schedule.end() if forced is None else forced
        if pipeline.node_names is not None:
            self._give({pipeline.name: None}, anew=forced)
        elif forced or not pipeline.active:
            pipeline.force(now_s)
        else:
            pipeline.joined(now_s)
        return []

    def _give(self, given: Mapping[str, Group | None], *, anew: bool = False) -> None:
        """Give each pipeline its nodes (None: all), those not named none; ``anew``: they plan whatever that gains."""
        lead = self.lead
        for name in given:
            if name not in self._pipelines:
                self._add(name)
        for pipeline in self._pipelines.values():
            if pipeline.is_resting:
                pipeline.follow(lead)
            if pipeline.name not in given:
                pipeline.release()
            elif (names := given[pipeline.name]) is None:
                pipeline.assign_all(anew=anew)
            else:
                pipeline.assign(names, anew=anew)

    def _share(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        pipelines = list(self._pipelines.values())
        for pipeline in pipelines:
            effects += pipeline.give_nodes_back()
            others = (other.nodes_in_use() for other in pipelines if other is not pipeline)
            pipeline.hold_elsewhere(frozenset().union(*others))
        for pipeline in pipelines:
            match pipeline.allocation_state:
                case AllocationState.AWAITING if pipeline.nodes_are_free:
                    pipeline.begin(now_s)
                case AllocationState.AWAITING if pipeline.has_to_shed():
                    self._restart(pipeline)  # its new nodes are not free before it gives up some: it can't wait
                case AllocationState.WORKING if pipeline.has_to_shed() and not pipeline.busy:
                    if self._is_waited_for(pipeline):
                        self._restart(pipeline)
        return effects

    def _is_waited_for(self, pipeline: Pipeline) -> bool:
        """Does another pipeline wait for nodes of this one?"""
        in_use = pipeline.nodes_in_use()
        waiting = (one.node_names for one in self._pipelines.values() if one.allocation_state.awaits_nodes)
        return any(names is None or names & in_use for names in waiting)

    def _restart(self, pipeline: Pipeline) -> None:
        """Let a pipeline go down, one at a time, and plan afresh."""
        if not any(one.allocation_state.goes_down for one in self._pipelines.values()):
            pipeline.restart()
