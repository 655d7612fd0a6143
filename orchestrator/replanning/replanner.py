"""The replanner: when to plan, with which nodes, and whether the answer is worth it (pure).

One thing at a time: ``Solving``, then what `switchover` does to bring the plan into force, or back to nothing on the
way. ``judge`` (see `acceptance`) is asked about every solution that was found beside a working plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.balancing.acceptance import Acceptance, AcceptanceDecision, AcceptanceQuery, Judge, judge
from orchestrator.balancing.pipeline_balancer import PipelineBalancer
from orchestrator.deployment.live_migration import LiveMigration
from orchestrator.deployment.open_requests import OpenRequests
from orchestrator.deployment.plan import (
    Building,
    DeployedPlan,
    NoPlan,
    NoPlanCode,
    ReadyPlan,
    ServingSettings,
    Solving,
)
from orchestrator.deployment.rollout import Rollout
from orchestrator.deployment.switchover import GivenUp, Switchover
from orchestrator.effects import Effect, Note, SolvePlan
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.planning.batches_in_flight import batches_in_flight
from orchestrator.planning.errors import PlanningError, remembered
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.infeasible import shortage_text
from orchestrator.replanning.adopter import Adopter
from orchestrator.replanning.eligibility import Eligibility
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.planner_input import PlannerInput
from orchestrator.replanning.report import PlanningReport
from orchestrator.replanning.ring_losses import RingLosses
from orchestrator.replanning.schedule import ReplanSchedule
from orchestrator.replanning.target import PlanTarget
from orchestrator.timing import Timing
from schemas.messages import Heartbeat, NodeProfile, PlanConstraints, SegmentFailed


class Replanner:
    """The plans of one pipeline."""

    def __init__(
        self,
        fleet: FleetView,
        requests: OpenRequests,
        switchover: Switchover,
        settings: ServingSettings,
        timing: Timing,
        *,
        target: PlanTarget,
        eligibility: Eligibility,
        report: PlanningReport,
        planner_input: PlannerInput,
        jobs: Jobs,
        adopter: Adopter,
        balancing: PipelineBalancer | None = None,
    ) -> None:
        """Make a replanner. ``jobs`` are shared by all pipelines.

        ``balancing`` is told of the heartbeats of nodes, may ask for a plan, and judges; without it the best plan alone
        counts.
        """
        self._fleet = fleet
        self._requests = requests
        self._switchover = switchover
        self._settings = settings
        self._timing = timing
        self._target = target
        self._report = report
        self._input = planner_input
        self._jobs = jobs
        self._adopter = adopter
        self._balancing = balancing
        self._judge: Judge = balancing.judge if balancing else judge
        self._eligibility = eligibility
        self._schedule = ReplanSchedule()
        self._solving: Solving | None = None
        self.losses = RingLosses(
            switchover, requests, eligibility, report, pipeline=settings.pipeline, plan_anew=self._plan_anew
        )

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Is a plan on its way, or due?"""
        is_due = self._schedule.is_set and not self._waits_for_idle
        return self._work is not None or is_due or self._adopter.plan is not None

    @property
    def _active(self) -> ReadyPlan | None:
        return self._switchover.active

    @property
    def _works(self) -> bool:
        """Is there a plan in force whose nodes are all here?"""
        return self._active is not None and not self._switchover.missing.awaited

    @property
    def _work(self) -> Solving | Building | Rollout | LiveMigration | None:
        """What is on its way to replace the plan in force."""
        return self._solving or self._switchover.next

    @property
    def _waits_for_idle(self) -> bool:
        return self._schedule.only_when_idle and self._active is not None and not self._requests.idle

    @property
    def _may_plan(self) -> bool:
        waits = self._fleet.on_hold or self._waits_for_idle or self._adopter.plan is not None
        return self._work is None and not waits

    def nodes_in_use(self) -> set[str]:
        """Names of the nodes of the plan in force, and of the one on its way."""
        plans = [one.plan for one in (self._active, self._switchover.next) if one]
        nodes = {node for plan in plans for node in plan.nodes} | self._adopter.nodes
        return nodes | {birth.node for birth in self._solving.births} if self._solving else nodes

    @property
    def planned_s(self) -> float:
        """When the next plan is to be made; infinity when none is."""
        return self._schedule.due_s

    def state(self) -> str:
        """The state in a word or two for people."""
        if self._solving or self._adopter.plan:
            return "planning" if self._solving else "taking over"
        return self._switchover.state() or ("serving" if self._active else "waiting")

    # --- what is wanted ---------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Begin to plan, a moment from now, when the fleet is believed to be complete."""
        self._schedule.start(now_s + self._timing.start_s)
        self._adopter.start(now_s)

    def no_model(self, reason: str) -> None:
        """There is no model that could be served."""
        if self._target.model is None:
            self._adopter.refuse(reason)
            self._report.no_model(reason)
            self._schedule.clear()

    def use_judge(self, judge: Judge) -> None:
        """Set who decides whether a solution is worth replacing the plan in force."""
        self._judge = judge

    def force(self, now_s: float) -> None:
        """Plan as soon as possible, whatever a new plan gains."""
        self._report.begins()
        self._schedule.ask(now_s, forced=True)

    def joined(self, now_s: float) -> None:
        """A node can be used, perhaps in the place of one that should give up its layers."""
        self._schedule.ask(now_s + self._timing.settle_s, forced=self._has_to_shed())

    def drained(self, node: str, now_s: float) -> None:
        """Plan at once without a node that should give up its layers, if it has any."""
        if node in self.nodes_in_use():
            self.force(now_s)

    def _has_to_shed(self) -> bool:
        """Are there nodes with layers that should have none?"""
        return any(self._eligibility.must_go(node, self._target.constraints) for node in self.nodes_in_use())

    def left(self, now_s: float) -> None:
        """A node can't be used any more. Rings find out by themselves; why there is no plan may have changed."""
        if not self._active and not self._work:
            self._schedule.hurry(now_s)

    def stop(self) -> list[Effect]:
        """Let the plan go down, so that nodes unload."""
        self._solving = None
        return self._switchover.stop()

    def solved(self, job: int, outcome: Solution | Infeasible, now_s: float) -> list[Effect]:
        """The planner's answer."""
        solving = self._solving
        if solving is None or solving.job != job:
            return []
        self._solving = None
        if solving.model is not self._target.model:
            return []  # another model was chosen meanwhile, and planning for it is due
        if isinstance(outcome, Infeasible) and outcome.fits:
            return self._solve_smaller(solving, outcome.fits, outcome.reason)
        if isinstance(outcome, Infeasible):
            if not solving.last_resort and not self._works and (weak := self._eligibility.weak()):
                text = f"there is no plan without {', '.join(birth.node for birth in weak)}: planning with them too"
                note = Note(text, warning=True, kind="last_resort", pipeline=self._settings.pipeline)
                return [note, *self._solve(now_s, last_resort=True)]
            return self._no_plan("no_memory", shortage_text(outcome))
        if (more := solving.asked_for_more(outcome)) is not None:
            return self._solve_smaller(solving, more, "")
        chosen = [birth for birth in solving.births if birth.node in outcome.nodes]
        if not all(self._fleet.is_usable(birth.node, birth.incarnation) for birth in chosen):
            self._schedule.ask(now_s, forced=solving.forced)
            return [Note("a node went away while the plan was made: planning again")]
        plan = self._settings.candidate(self._switchover.epochs.upcoming, solving, outcome)
        if not self._works:
            return self._begin(plan, solving)
        assert self._active
        verdict = self._decide(plan, solving, now_s)
        if verdict.answer is not Acceptance.NOW:
            return []
        if verdict.instead:
            plan = self._settings.candidate(plan.epoch, solving, verdict.instead)
        begun = self._begin(plan, solving)
        if solving.forced:
            return begun
        text = f"epoch {plan.epoch} is to follow {self._active.plan.epoch}: {verdict.reason}"
        return [Note(text, kind="moving", pipeline=plan.pipeline), *begun]

    def _begin(self, plan: DeployedPlan, solving: Solving) -> list[Effect]:
        plan = replace(plan, batches=batches_in_flight(solving.problem, plan.solution.stages))
        return [*self._report.begins_with(plan), *self._switchover.begin(solving.job, plan, forced=solving.forced)]

    def _decide(self, plan: DeployedPlan, solving: Solving, now_s: float) -> AcceptanceDecision:
        assert self._active
        migration = self._switchover.migration_to(plan)
        work = self._requests.open_work
        verdict = self._judge(AcceptanceQuery(self._active.plan, plan.solution, solving, work, migration, now_s))
        self._report.decided(verdict, now_s)
        if verdict.answer is Acceptance.WHEN_IDLE:
            self._schedule.wait_until_idle(now_s)
        return verdict

    def job_failed(self, job: int, reason: str) -> list[Effect]:
        """Planning or assembling ended with an error."""
        if self._adopter.failed(job, reason):
            return []
        if self._solving and self._solving.job == job:
            self._solving = None
        elif not self._switchover.build_failed(job):
            return []
        return self._no_plan("not_ready", reason)

    def reply(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's reply about a segment, or about itself."""
        if isinstance(message, NodeProfile):
            return self._profiled(node, message, now_s)
        if isinstance(message, Heartbeat):
            self._adopter.heard(message)
            if self._eligibility.rules_changed(node, self._target.constraints):
                self._rules_changed(node, now_s)
            return [*self.losses.heard(node, message, now_s), *self._observe(message, now_s)]
        if isinstance(message, SegmentFailed) and self._switchover.is_broken_by(node, message):
            return self.losses.broken_by(node, message, now_s)
        return self._switchover.reply(node, message, now_s)

    # --- what nodes measure -----------------------------------------------------------------------------------

    def _profiled(self, node: str, profile: NodeProfile, now_s: float) -> list[Effect]:
        known = self._fleet.nodes.get(node)
        if known is None or known.birth.incarnation != profile.incarnation:
            return []
        effects = self._input.measured(known.birth, profile, now_s)
        if self._schedule.awaits_profiles and not self._profiles_due_s(now_s) > now_s:
            self._schedule.hurry(now_s)
        return effects

    def _profiles_due_s(self, now_s: float) -> float:
        assert self._target.model
        return self._input.awaited_until_s(self._fleet.usable(), self._target.model, now_s)

    def _observe(self, beat: Heartbeat, now_s: float) -> list[Effect]:
        if not self._active or not self._balancing:
            return []
        busy = self._work is not None or self._fleet.on_hold
        effects, asks = self._balancing.heard(beat, self._active, now_s, busy=busy)
        if asks:
            self._schedule.ask(now_s)
        return effects

    def _rules_changed(self, node: str, now_s: float) -> None:
        """Plan anew, as a node has come to break the operator's rules while it serves, or to respect them again."""
        if self._eligibility.must_go(node, self._target.constraints):
            self.drained(node, now_s)
        else:
            self.joined(now_s)

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> list[Effect]:
        """Do what is due."""
        effects, adopted = self._adopter.advance(now_s)
        if adopted:  # whatever was asked for before it was there; nodes may have come since it was made
            self._schedule.take()
            self.joined(now_s)
        effects += self.losses.advance(now_s)
        before = self._active
        switched, given_up = self._switchover.advance(now_s)
        effects += switched
        if given_up:
            effects += self._given_up(given_up, now_s)
        elif self._active and self._active is not before:
            self._report.replaced()
            self._eligibility.worked(self._active.plan)
        if self._eligibility.expire(now_s):
            self.joined(now_s)
        if now_s >= self._schedule.due_s and self._schedule.forced and self._target.has_other_constraints:
            self._solving = None  # one roll-out, and not another one right after it
            effects += self._switchover.give_up_unready("other constraints are to be respected")
        if now_s >= self._schedule.due_s and self._may_plan:
            effects += self._solve(now_s)
        return effects

    def _plan_anew(self, now_s: float) -> None:
        self._solving = None
        self._schedule.ask(now_s)

    def next_deadline_s(self) -> float:
        """When ``advance`` next has something to do by time alone."""
        switchover = self._switchover
        due = [switchover.ring_breaks_s()]
        due += [one.next_deadline_s() for one in (self._eligibility, self._adopter, switchover)]
        if self._may_plan:
            due.append(self._schedule.due_s)
        return min(due)

    # --- the way of a plan ------------------------------------------------------------------------------------

    def _solve(self, now_s: float, *, last_resort: bool = False) -> list[Effect]:
        forced = self._schedule.take()
        model = self._target.model
        if model is None:
            return []
        constraints = self._target.planned = self._target.constraints
        self._eligibility.use_model(model.name)
        usable = self._fleet.usable()
        births = self._eligibility.births(last_resort=last_resort)
        if not births and not self._works:
            births = self._eligibility.births(last_resort=True)
        if not usable:
            return self._no_plan("no_nodes", "no nodes: start one (linguabus node), or linguabus invite NAME")
        is_first = not (self._switchover.last_stages or self._adopter.was_found)
        if is_first and len(usable) < self._fleet.min_nodes:
            return self._no_plan("not_ready", f"waiting for {self._fleet.min_nodes} nodes, {len(usable)} here so far")
        if not births:
            return self._no_plan("no_nodes", "no node can be given layers")
        asked = self._input.measure(births, model, now_s)
        awaited_until_s = self._profiles_due_s(now_s)
        if awaited_until_s > now_s:
            self._schedule.wait_for_profiles(awaited_until_s, forced=forced)
            return asked
        try:
            problem = self._input.problem(model, births, constraints, self._switchover.last_stages)
        except PlanningError as error:
            return self._no_plan("not_ready", remembered(error))
        job = self._jobs.begin(self._settings.pipeline)
        self._solving = Solving(job, model, births, problem.context_tokens, forced, problem, last_resort)
        return [SolvePlan(job, problem)]

    def _solve_smaller(self, solving: Solving, problem: Problem, why: str) -> list[Effect]:
        """Plan with KV caches that fit, as nobody has said how large they are to be, or without a draft model."""
        job = self._jobs.begin(self._settings.pipeline)
        told, self._solving = self._report.asks_for_less(solving, problem, why), solving.asking(job, problem)
        return [*told, SolvePlan(job, problem)]

    def preview(self, constraints: PlanConstraints) -> Problem:
        """The planner's question with other constraints, asked of the nodes that are here.

        Raises:
            PlanningError, BadConstraint: there is nothing to ask; the message says why.
        """
        births = self._fleet.plannable()
        if self._target.model is None or not births:
            raise PlanningError(self._report.why_none.reason)
        return self._input.problem(self._target.model, births, constraints, self._switchover.last_stages)

    def _no_plan(self, code: NoPlanCode, reason: str) -> list[Effect]:
        """No new plan for now; a working one stays."""
        why = NoPlan(code, self._eligibility.why_no_plan(reason))
        self._report.failed(why.reason)
        if self._active is None:
            return self._report.there_is_none(why)
        self._target.model = self._active.plan.model
        return self._report.stays(self._active.plan, why.reason)

    def _given_up(self, given_up: GivenUp, now_s: float) -> list[Effect]:
        self._report.last_failure = failure = f"{given_up.node}: {given_up.reason}"
        told: list[Effect] = []
        if given_up.is_nodes_fault:
            told = self._eligibility.failed(given_up.plan, given_up.node, given_up.reason, given_up.code, now_s)
        if self._active is None or self._active.plan.model is not self._target.model:
            self.force(now_s)
            return told
        self._report.failed(failure)
        if self._switchover.missing.awaited:
            self._schedule.ask(now_s)
        if self._has_to_shed():
            wait_s = self._timing.settle_s if given_up.is_nodes_fault else self._timing.exclude_s
            self._schedule.ask(now_s + wait_s, forced=True)
        return [*told, *self._report.stays(self._active.plan, failure)]
