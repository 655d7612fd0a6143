"""Adopting the plan that an earlier start of the orchestrator has left in force (pure).

Nodes keep on answering while the orchestrator is away. One that starts takes the retained plan over as it is, if every
node of the ring says in its heartbeat that it holds its stage; otherwise the plan is taken down and another one made.
"""

from __future__ import annotations

import math

from orchestrator.deployment.plan import DeployedPlan, ServingSettings
from orchestrator.deployment.switchover import Switchover
from orchestrator.effects import Effect, EvaluatePlan, Note
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.model.served import ServedModel
from orchestrator.planning.errors import BadConstraint, PlanningError
from orchestrator.planning.problem import Stage
from orchestrator.planning.solution import Solution
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.planner_input import PlannerInput
from orchestrator.replanning.target import PlanTarget
from orchestrator.timing import Timing
from schemas.messages import Heartbeat, Plan


class Adopter:
    """The plan that is to be adopted, until it is, or can't be."""

    def __init__(
        self,
        fleet: FleetView,
        settings: ServingSettings,
        timing: Timing,
        *,
        target: PlanTarget,
        planner_input: PlannerInput,
        jobs: Jobs,
        switchover: Switchover,
    ) -> None:
        self.plan: Plan | None = None
        """The plan that was left; None when there is none, or no more."""
        self.was_found = False
        """Was a plan left, whatever became of it?"""
        self._fleet = fleet
        self._settings = settings
        self._timing = timing
        self._target = target
        self._input = planner_input
        self._jobs = jobs
        self._switchover = switchover
        self._held: set[int] = set()
        """Stages whose node has said that it holds them."""
        self._due_s = math.inf
        self._job: int | None = None
        self._solution: Solution | None = None
        self._refused = ""
        """Why it is not to be adopted, as others know."""

    @property
    def nodes(self) -> set[str]:
        """The nodes of the plan that is to be adopted."""
        return {stage.node for stage in self.plan.ring} if self.plan else set()

    def found(self, plan: Plan) -> None:
        """A plan was left; the newest counts."""
        self.plan, self._held, self._job, self._solution = plan, set(), None, None
        self.was_found = True

    def start(self, now_s: float) -> None:
        """The fleet can be heard from now on."""
        self._due_s = now_s + self._timing.adopt_s

    def heard(self, beat: Heartbeat) -> None:
        """Take in which stages a node holds."""
        plan = self.plan
        if plan is None:
            return
        for stage in beat.stages:
            if (stage.pipeline, stage.epoch) == (plan.pipeline, plan.epoch) and stage.stage < len(plan.ring):
                here = (plan.ring[stage.stage].node, plan.starts[stage.stage])
                if here == (beat.node, beat.incarnation):
                    self._held.add(stage.stage)

    def refuse(self, why: str) -> None:
        """Adopt nothing, for a reason that others know."""
        self._refused = why

    def evaluated(self, job: int, solution: Solution) -> None:
        """Take in the figures of the plan."""
        if job == self._job:
            self._solution = solution

    def failed(self, job: int, reason: str) -> bool:
        """Note that the plan could not be evaluated; false when that was not asked for here."""
        if self.plan is None or job != self._job:
            return False
        self._refused = reason
        return True

    def next_deadline_s(self) -> float:
        """When ``advance`` next has something to do by time alone."""
        return self._due_s if self.plan and self._job is None else math.inf

    def advance(self, now_s: float) -> tuple[list[Effect], bool]:
        """Do what is due, while there is a plan to be adopted.

        Returns:
            Effects, and whether the plan was adopted.
        """
        plan, model = self.plan, self._target.model
        if plan is None:
            return [], False
        try:
            why_not = self._why_not(plan, model, now_s)
            if not why_not and model is not None:
                if self._solution is not None:
                    self.plan = None
                    return self._switchover.adopt(self._deployed(plan, model, self._solution), now_s), True
                return self._ask(plan, model), False
        except (PlanningError, BadConstraint) as error:
            why_not = str(error)
        if not why_not:
            return [], False
        self.plan = None
        text = f"epoch {plan.epoch} of {plan.pipeline}, left by an earlier start, is given up: {why_not}"
        note = Note(text, warning=True, kind="given_up", pipeline=plan.pipeline)
        return [note, *self._switchover.take_down(plan)], False

    def _why_not(self, plan: Plan, model: ServedModel | None, now_s: float) -> str:
        """Why the plan can't be adopted; empty while it may."""
        if self._refused:
            return self._refused
        if len(plan.starts) != len(plan.ring) or not plan.chunk_tokens:
            return "it does not say enough of itself"
        if model is not None and model.name != plan.model:
            return f"it is for the model {plan.model}"
        if model is not None and model.manifest.kv_rounding != plan.kv_rounding:
            return "its keys and values are not rounded as they are to be now (serve --kv)"
        missing = [stage.node for number, stage in enumerate(plan.ring) if number not in self._held]
        if missing and now_s >= self._due_s:
            return f"{', '.join(dict.fromkeys(missing))} is not heard of with its part"
        # It may have said that it holds its part, and have gone since.
        gone = [node for node, start in _starts(plan).items() if not self._fleet.is_usable(node, start)]
        if gone and now_s >= self._due_s and self._job is None:
            return f"{', '.join(gone)} is gone"
        return ""

    def _ask(self, plan: Plan, model: ServedModel) -> list[Effect]:
        """Have the plan evaluated, once it is known that all of its ring is there."""
        if self._job is not None or len(self._held) < len(plan.ring):
            return []
        starts = _starts(plan)
        if not all(self._fleet.is_usable(node, start) for node, start in starts.items()):
            return []
        births = [birth for birth in self._fleet.usable() if birth.node in starts]
        problem = self._input.given(model, births, plan)
        self._job = self._jobs.begin(self._settings.pipeline)
        return [EvaluatePlan(self._job, problem, tuple(Stage(s.node, s.start, s.stop) for s in plan.ring))]

    def _deployed(self, plan: Plan, model: ServedModel, solution: Solution) -> DeployedPlan:
        return DeployedPlan(
            pipeline=plan.pipeline,
            epoch=plan.epoch,
            model=model,
            context_tokens=plan.context_tokens,
            slots=plan.slots,
            wire_dtype=plan.wire_dtype,
            chunk_tokens=plan.chunk_tokens,
            solution=solution,
            incarnations=_starts(plan),
            max_message_bytes=plan.max_message_bytes,
            memory_margin=self._settings.memory_margin,
            batches=plan.batches,
        )


def _starts(plan: Plan) -> dict[str, int]:
    """Which start of each node of its ring a plan counts on."""
    return dict(zip((stage.node for stage in plan.ring), plan.starts, strict=True))
