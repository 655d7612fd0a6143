"""Adopting the plan that an earlier start of the orchestrator has left in force (pure).

Nodes keep on answering while the orchestrator is away. One that starts takes the plan over as it is, if every node of
the ring says in its heartbeat that it holds its stage; otherwise the plan is taken down and another one made. The plan
is the one that the broker has kept, or the database's where that is newer: a broker that was killed may have forgotten.
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
from orchestrator.replanning.roll_call import RollCall, listed, not_heard
from orchestrator.replanning.target import PlanTarget
from orchestrator.timing import Timing
from schemas.messages import Epoch, Heartbeat, Plan


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
        self.was_found = False
        """Was a plan left, whatever became of it?"""
        self.waits_for = ""
        """The nodes that have not been heard of with their parts for longer than that usually takes, in words."""
        self._fleet = fleet
        self._settings = settings
        self._timing = timing
        self._target = target
        self._input = planner_input
        self._jobs = jobs
        self._switchover = switchover
        self._ring: RollCall | None = None
        self._newest: Epoch | None = None
        """Of the plans that were found, those that had been taken down included."""
        self._is_kept = False
        """Does the broker have the plan?"""
        self._started_s = self._due_s = math.inf
        self._job: int | None = None
        self._solution: Solution | None = None
        self._refused = ""
        """Why it is not to be adopted, as others know."""

    @property
    def plan(self) -> Plan | None:
        """The plan that was left; None when there is none, or no more."""
        return self._ring.plan if self._ring else None

    @property
    def waiting(self) -> str:
        """For whom the plan that was left waits, for people; empty while it has not waited long."""
        return f"the plan that was left waits for {self.waits_for}" if self.waits_for else ""

    @property
    def nodes(self) -> set[str]:
        """The nodes of the plan that is to be adopted."""
        return set(self._ring.starts) if self._ring else set()

    def found(self, plan: Plan, *, is_kept: bool) -> None:
        """A plan was left, or taken down; the newest counts. ``is_kept``: the broker has it, not only the database."""
        if self._newest is not None and plan.epoch <= self._newest:
            self._is_kept |= is_kept and plan.epoch == self._newest
            return
        self._newest, self._is_kept, self._job, self._solution = plan.epoch, is_kept, None, None
        self._ring = RollCall(plan, self._fleet, self._timing) if plan.ring else None
        self.was_found |= bool(plan.ring)

    def start(self, now_s: float) -> None:
        """The fleet can be heard from now on."""
        self._started_s = now_s

    def heard(self, beat: Heartbeat) -> None:
        """Take in which stages a node holds."""
        if self._ring:
            self._ring.heard(beat)

    def refuse(self, why: str) -> None:
        """Adopt nothing, for a reason that others know."""
        self._refused = why

    def evaluated(self, job: int, solution: Solution) -> None:
        """Take in the figures of the plan."""
        if job == self._job:
            self._solution = solution

    def failed(self, job: int, reason: str) -> bool:
        """Note that the plan could not be evaluated; false when that was not asked for here."""
        if self._ring is None or job != self._job:
            return False
        self._refused = reason
        return True

    def next_deadline_s(self) -> float:
        """When ``advance`` next has something to do by time alone."""
        return self._due_s if self._ring else math.inf

    def advance(self, now_s: float) -> tuple[list[Effect], bool]:
        """Do what is due, while there is a plan to be adopted.

        Returns:
            Effects, and whether the plan was adopted.
        """
        ring, model = self._ring, self._target.model
        if ring is None:
            return [], False
        if not self._is_kept and now_s < self._started_s + self._timing.start_s:
            self._due_s = self._started_s + self._timing.start_s  # until then the broker may tell of a newer one
            return [], False
        ring.look(now_s)
        effects: list[Effect] = []
        try:
            why_not = self._why_not(ring, model, now_s)
            if not why_not:
                effects += self._wait(ring, now_s)
                if model is not None and self._solution is not None:
                    self._end()
                    return self._switchover.adopt(self._deployed(ring, model, self._solution), now_s), True
                if model is not None and self._job is None and not ring.absent():
                    effects.append(self._evaluate(ring, model))
        except (PlanningError, BadConstraint) as error:
            why_not = str(error)
        if not why_not:
            return effects, False
        self._end()
        text = f"{_name(ring.plan)} is given up: {why_not}"
        note = Note(text, warning=True, kind="given_up", pipeline=ring.plan.pipeline)
        return [note, *self._switchover.take_down(ring.plan)], False

    def _end(self) -> None:
        self._ring, self.waits_for = None, ""

    def _why_not(self, ring: RollCall, model: ServedModel | None, now_s: float) -> str:
        """Why the plan can't be adopted; empty while it may."""
        plan = ring.plan
        if self._refused:
            return self._refused
        if len(plan.starts) != len(plan.ring) or not plan.chunk_tokens:
            return "it does not say enough of itself"
        if model is not None and model.name != plan.model:
            return f"it is for the model {plan.model}"
        if model is not None and model.manifest.kv_rounding != plan.kv_rounding:
            return "its keys and values are not rounded as they are to be now (serve --kv)"
        if ring.why_not:
            return ring.why_not
        absent = ring.absent()  # some may have said that they hold their parts, and have gone since
        if absent and self._job is None and now_s >= ring.until_s(self._started_s):
            return not_heard(absent)
        return ""

    def _wait(self, ring: RollCall, now_s: float) -> list[Effect]:
        """Say for whom the plan waits, once that takes long."""
        absent = ring.absent() if self._job is None else []
        usual_s = self._started_s + self._timing.adopt_s
        was_told, self.waits_for = bool(self.waits_for), listed(absent) if absent and now_s >= usual_s else ""
        self._due_s = math.inf
        if absent:
            until_s = ring.until_s(self._started_s)
            self._due_s = until_s if self.waits_for else min(until_s, usual_s)
        if was_told or not self.waits_for:
            return []
        return [Note(f"{_name(ring.plan)} waits for {self.waits_for}", pipeline=ring.plan.pipeline)]

    def _evaluate(self, ring: RollCall, model: ServedModel) -> EvaluatePlan:
        """Have the plan evaluated: all of its ring is there."""
        births = [birth for birth in self._fleet.usable() if birth.node in ring.starts]
        problem = self._input.given(model, births, ring.plan)
        self._job = self._jobs.begin(self._settings.pipeline)
        return EvaluatePlan(self._job, problem, tuple(Stage(s.node, s.start, s.stop) for s in ring.plan.ring))

    def _deployed(self, ring: RollCall, model: ServedModel, solution: Solution) -> DeployedPlan:
        plan = ring.plan
        return DeployedPlan(
            pipeline=plan.pipeline,
            epoch=plan.epoch,
            model=model,
            context_tokens=plan.context_tokens,
            slots=plan.slots,
            wire_dtype=plan.wire_dtype,
            chunk_tokens=plan.chunk_tokens,
            solution=solution,
            incarnations=ring.starts,
            max_message_bytes=plan.max_message_bytes,
            memory_margin=self._settings.memory_margin,
            draft=plan.draft,
            batches=plan.batches,
        )


def _name(plan: Plan) -> str:
    return f"epoch {plan.epoch} of {plan.pipeline}, left by an earlier start,"
