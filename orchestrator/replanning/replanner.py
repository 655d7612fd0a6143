"""When to plan, with which nodes, and whether the answer is worth it (pure).

One thing at a time: ``Solving``, then what `switchover` does to bring the plan into force, or back to nothing on the
way. ``judge`` (see `acceptance`) is asked about every solution that was found beside a working plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.balancing.acceptance import Acceptance, AcceptanceDecision, AcceptanceQuery, Judge, judge
from orchestrator.balancing.decision_log import Decision, DecisionLog
from orchestrator.balancing.decision_log import Verdict as Decided
from orchestrator.balancing.pipeline_balancer import PipelineBalancer
from orchestrator.deployment.epochs import Epochs
from orchestrator.deployment.live_migration import LiveMigration
from orchestrator.deployment.open_requests import OpenRequests
from orchestrator.deployment.plan import (
    Building,
    DeployedPlan,
    NoPlan,
    NoPlanCode,
    ReadyPlan,
    ReplanDone,
    ServingSettings,
    Solving,
)
from orchestrator.deployment.rollout import Rollout
from orchestrator.deployment.switchover import GivenUp, Switchover
from orchestrator.effects import Effect, Note, SolvePlan
from orchestrator.fleet.pipeline_nodes import FleetView
from orchestrator.fleet.profiles import Profiles
from orchestrator.model.served import ServedModel
from orchestrator.planning.batches_in_flight import batches_in_flight
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.infeasible import shortage_text
from orchestrator.replanning.constraints import PlanConstraints
from orchestrator.replanning.eligibility import Eligibility
from orchestrator.replanning.jobs import Jobs
from orchestrator.replanning.problem_builder import problem_of
from orchestrator.replanning.schedule import ReplanSchedule
from orchestrator.timing import Timing
from schemas.messages import Heartbeat, NodeBirth, NodeProfile


class Replanner:
    """The plans of one pipeline."""

    def __init__(
        self,
        fleet: FleetView,
        requests: OpenRequests,
        settings: ServingSettings,
        timing: Timing,
        *,
        epochs: Epochs,
        min_nodes: int,
        blob_urls: tuple[str, ...],
        profiles: Profiles | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        """``epochs``, ``profiles`` and ``jobs`` are shared by all pipelines."""
        self._fleet = fleet
        self._requests = requests
        self._settings = settings
        self._timing = timing
        self.min_nodes = min_nodes
        """The first plan waits for this many."""
        self._blob_urls = blob_urls
        self.profiles = profiles or Profiles()
        self.switchover = Switchover(fleet, requests, self.profiles, timing, epochs, blob_urls=blob_urls)
        self.judge: Judge = judge
        self.balancing: PipelineBalancer | None = None
        """Told of the heartbeats of nodes; may ask for a plan."""
        self.model: ServedModel | None = None
        self.why_none = NoPlan("not_ready", "the orchestrator has only just started: ask again")
        self.last_failure = ""
        self.why_it_stays = ""
        """Why the last attempt to replace the plan in force came to nothing; empty when none was made or it worked."""
        self.decisions = DecisionLog()
        """Which solutions replaced the plan in force, which did not, and why."""
        self.outcomes: list[ReplanDone] = []
        """Filled here, emptied by the core."""
        self.constraints = PlanConstraints()
        """What plans are to respect."""
        self.on_hold = False
        """Which nodes the pipeline gets is being decided: no plan is begun meanwhile."""
        self._eligibility = Eligibility(fleet, exclude_s=timing.exclude_s)
        self._schedule = ReplanSchedule()
        self._jobs = jobs or Jobs()
        self._solving: Solving | None = None
        self._smaller_caches: tuple[int, int] | None = None
        """Context and slots that were last planned with because what is usual did not fit; told once."""

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def active(self) -> ReadyPlan | None:
        """The plan in force."""
        return self.switchover.active

    @property
    def work(self) -> Solving | Building | Rollout | LiveMigration | None:
        """What is on its way to replace it."""
        return self._solving or self.switchover.next

    @property
    def draining(self) -> bool:
        """Must no request be opened on the working plan? Its successor is about to follow, or is to serve another
        model."""
        serves_another = self.active is not None and self.active.plan.model is not self.model
        return serves_another or self.switchover.draining

    @property
    def busy(self) -> bool:
        """Is a plan on its way, or due?"""
        return self.work is not None or (self._schedule.is_set and not self._waits_for_idle)

    @property
    def _waits_for_idle(self) -> bool:
        return self._schedule.only_when_idle and self.active is not None and not self._requests.idle

    @property
    def planned_s(self) -> float:
        """When the next plan is to be made; infinity when none is."""
        return self._schedule.due_s

    def excludes(self, birth: NodeBirth) -> bool:
        """Is this start of a node left out, because it failed to load a segment?"""
        return self._eligibility.excludes(birth)

    def state(self) -> str:
        """In a word or two for people."""
        if self._solving:
            return "planning"
        return self.switchover.state() or ("serving" if self.active else "waiting")

    # --- what happened ----------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Messages flow from now on; the fleet is believed to be complete a moment later."""
        self._schedule.start(now_s + self._timing.start_s)

    def use_model(self, model: ServedModel, now_s: float) -> None:
        """Serve this model from the next plan on."""
        self.model = model
        self.force(now_s)

    def no_model(self, reason: str) -> None:
        """There is no model that could be served."""
        if self.model is None:
            self.why_none = NoPlan("no_model", reason)
            self._schedule.clear()

    def force(self, now_s: float) -> None:
        """Plan as soon as possible, whatever it gains."""
        self.why_it_stays = ""
        self._schedule.ask(now_s, forced=True)

    def joined(self, now_s: float) -> None:
        """A node can be used, perhaps in the place of one that should give up its layers."""
        self._schedule.ask(now_s + self._timing.settle_s, forced=self._has_to_shed())

    def drained(self, node: str, now_s: float) -> None:
        """A node should give up its layers: plan without it at once, if it has any."""
        if node in self.nodes_in_use():
            self.force(now_s)

    def nodes_in_use(self) -> set[str]:
        """Of the plan in force, and of the one on its way."""
        plans = [self.active.plan] if self.active else []
        plans += [self.switchover.next.plan] if self.switchover.next else []
        nodes = {node for plan in plans for node in plan.nodes}
        return nodes | {birth.node for birth in self._solving.births} if self._solving else nodes

    def _has_to_shed(self) -> bool:
        """Are there nodes with layers that should have none?"""
        return any(self._eligibility.must_go(node, self.constraints) for node in self.nodes_in_use())

    def left(self, now_s: float) -> None:
        """A node can't be used any more. Rings find out by themselves; why there is no plan may have changed."""
        if not self.active and not self.work:
            self._schedule.hurry(now_s)

    def stop(self) -> list[Effect]:
        """The pipeline goes down: nodes unload."""
        self._solving = None
        return self.switchover.stop()

    def solved(self, job: int, outcome: Solution | Infeasible, now_s: float) -> list[Effect]:
        """The planner's answer."""
        solving = self._solving
        if solving is None or solving.job != job:
            return []
        self._solving = None
        if solving.model is not self.model:
            return []  # another model was chosen meanwhile, and planning for it is due
        if isinstance(outcome, Infeasible) and outcome.fits:
            return self._solve_smaller(solving, outcome.fits, outcome.reason)
        if isinstance(outcome, Infeasible):
            if not solving.last_resort and not self.active and (weak := self._eligibility.weak()):
                text = f"there is no plan without {', '.join(birth.node for birth in weak)}: planning with them too"
                note = Note(text, warning=True, kind="last_resort", pipeline=self._settings.pipeline)
                return [note, *self._solve(now_s, last_resort=True)]
            return self._no_plan("no_memory", shortage_text(outcome))
        chosen = [birth for birth in solving.births if birth.node in outcome.nodes]
        if not all(self._fleet.is_usable(birth.node, birth.incarnation) for birth in chosen):
            self._schedule.ask(now_s, forced=solving.forced)
            return [Note("a node went away while the plan was made: planning again")]
        plan = self._settings.candidate(self.switchover.epochs.upcoming, solving, outcome)
        if not self.active:
            return self._begin(plan, solving)
        verdict = self._judge(plan, solving, now_s)
        if verdict.answer is not Acceptance.NOW:
            return []
        if verdict.instead:
            plan = self._settings.candidate(plan.epoch, solving, verdict.instead)
        begun = self._begin(plan, solving)
        if solving.forced:
            return begun
        text = f"epoch {plan.epoch} is to follow {self.active.plan.epoch}: {verdict.reason}"
        return [Note(text, kind="moving", pipeline=plan.pipeline), *begun]

    def _begin(self, plan: DeployedPlan, solving: Solving) -> list[Effect]:
        batches = batches_in_flight(solving.problem, plan.solution.stages)
        return self.switchover.begin(solving.job, replace(plan, batches=batches), forced=solving.forced)

    def _judge(self, plan: DeployedPlan, solving: Solving, now_s: float) -> AcceptanceDecision:
        assert self.active
        migration = self.switchover.migration_to(plan)
        work = self._requests.open_work
        verdict = self.judge(AcceptanceQuery(self.active.plan, plan.solution, solving, work, migration, now_s))
        if not verdict.recorded:
            self._decided(verdict.answer is Acceptance.NOW, verdict.reason, now_s)
        if verdict.answer is not Acceptance.NOW:
            self.outcomes.append(ReplanDone(ok=True, changed=False))
        if verdict.answer is Acceptance.WHEN_IDLE:
            self._schedule.wait_until_idle(now_s)
        return verdict

    def _decided(self, moves: bool, reason: str, now_s: float) -> None:
        self.decisions.add(Decision(verdict=Decided.MOVE if moves else Decided.STAY, reason=reason), now_s)

    def job_failed(self, job: int, reason: str) -> list[Effect]:
        """Planning or assembling ended with an error."""
        if not isinstance(self.work, Solving | Building) or self.work.job != job:
            return []
        self._solving = self.switchover.next = None
        return self._no_plan("not_ready", reason)

    def reply(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's reply about a segment, or about itself."""
        if isinstance(message, NodeProfile):
            return self._profiled(node, message, now_s)
        if isinstance(message, Heartbeat):
            if self._eligibility.rules_changed(node, self.constraints):
                self._rules_changed(node, now_s)
            return self._observe(message, now_s)
        return self.switchover.reply(node, message, now_s)

    # --- what nodes measure -----------------------------------------------------------------------------------

    def _profiled(self, node: str, profile: NodeProfile, now_s: float) -> list[Effect]:
        known = self._fleet.nodes.get(node)
        if known is None or known.birth.incarnation != profile.incarnation:
            return []
        effects = self.profiles.answer(known.birth, profile, now_s)
        if self._schedule.awaits_profiles and not self._profiles_due_s(now_s) > now_s:
            self._schedule.hurry(now_s)
        return effects

    def _profiles_due_s(self, now_s: float) -> float:
        assert self.model
        return self.profiles.awaited_until_s(self._fleet.usable(), self.model.manifest, now_s)

    def _observe(self, beat: Heartbeat, now_s: float) -> list[Effect]:
        if not self.active or not self.balancing:
            return []
        busy = self.work is not None or self.on_hold
        effects, asks = self.balancing.heard(beat, self.active, now_s, busy=busy)
        if asks:
            self._schedule.ask(now_s)
        return effects

    def _rules_changed(self, node: str, now_s: float) -> None:
        """A node has come to break the operator's rules while it serves, or to respect them again."""
        if self._eligibility.must_go(node, self.constraints):
            self.drained(node, now_s)
        else:
            self.joined(now_s)

    # --- a broken ring ----------------------------------------------------------------------------------------

    def ring_is_broken(self, now_s: float) -> bool:
        """Is a node of the working ring gone for good?"""
        return now_s >= self.switchover.ring_breaks_s()

    def drop_ring(self, now_s: float) -> list[Effect]:
        """The working ring is broken. Unless its successor is ready: take it down and plan again at once."""
        effects = self.switchover.drop_ring()
        if self.active:
            self.outcomes.append(ReplanDone(ok=True, changed=True))
        else:
            self._solving = None
            self._schedule.ask(now_s)
        return effects

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> list[Effect]:
        """Do what is due."""
        before = self.active
        effects, given_up = self.switchover.advance(now_s)
        if given_up:
            effects += self._given_up(given_up, now_s)
        elif self.active and self.active is not before:
            self.why_it_stays = ""
            self.outcomes.append(ReplanDone(ok=True, changed=True))
        if self._eligibility.expire(now_s):
            self.joined(now_s)
        if self.work is None and now_s >= self._schedule.due_s and not self.on_hold and not self._waits_for_idle:
            effects += self._solve(now_s)
        return effects

    def next_deadline_s(self) -> float:
        """When ``advance`` or ``ring_is_broken`` next have something to do by time alone."""
        switchover = self.switchover
        due = [self._eligibility.next_deadline_s(), switchover.ring_breaks_s(), switchover.next_deadline_s()]
        if self.work is None and not self._waits_for_idle and not self.on_hold:
            due.append(self._schedule.due_s)
        return min(due)

    # --- the way of a plan ------------------------------------------------------------------------------------

    def _solve(self, now_s: float, *, last_resort: bool = False) -> list[Effect]:
        forced = self._schedule.take()
        if self.model is None:
            return []
        usable = self._fleet.usable()
        births = self._eligibility.births(last_resort=last_resort or not (self._fleet.plannable() or self.active))
        if not usable:
            return self._no_plan("no_nodes", "no nodes: start one with linguabus-node --broker URL")
        if not self.switchover.last_stages and len(usable) < self.min_nodes:
            return self._no_plan("not_ready", f"waiting for {self.min_nodes} nodes, {len(usable)} here so far")
        if not births:
            return self._no_plan("no_nodes", "no node can be given layers")
        asked = self.profiles.ask(births, self.model, self._blob_urls, self._settings.wire_dtype, now_s)
        awaited_until_s = self._profiles_due_s(now_s)
        if awaited_until_s > now_s:
            self._schedule.wait_for_profiles(awaited_until_s, forced=forced)
            return asked
        try:
            problem = self._problem(self.model, births, self.constraints)
        except PlanningError as error:
            return self._no_plan("not_ready", str(error))
        job = self._jobs.begin(self._settings.pipeline)
        self._solving = Solving(job, self.model, births, problem.context_tokens, forced, problem, last_resort)
        return [SolvePlan(job, problem)]

    def _solve_smaller(self, solving: Solving, problem: Problem, why: str) -> list[Effect]:
        """Nobody has said how large the KV caches are to be: plan with those that fit."""
        asked, job = solving.problem, self._jobs.begin(self._settings.pipeline)
        self._solving = replace(solving, job=job, problem=problem, context_tokens=problem.context_tokens)
        caches = (problem.context_tokens, problem.slots)
        told, self._smaller_caches = self._smaller_caches == caches, caches
        serving = f"serving {problem.slots} at once with {problem.context_tokens} tokens of context"
        text = f"{serving} instead of {asked.slots} with {asked.context_tokens}: that {why}"
        notes = [] if told else [Note(text, kind="smaller", pipeline=self._settings.pipeline)]
        return [*notes, SolvePlan(job, problem)]

    def _problem(self, model: ServedModel, births: Sequence[NodeBirth], constraints: PlanConstraints) -> Problem:
        profiles = self.profiles.of(births, model.manifest)
        conditions = self._fleet.conditions()
        return problem_of(
            self._settings, model.manifest, births, profiles, self.switchover.last_stages, constraints, conditions
        )

    def preview(self, constraints: PlanConstraints) -> Problem:
        """The planner's question with other constraints, asked of the nodes that are here.

        Raises:
            PlanningError, BadWish: there is nothing to ask; the message says why.
        """
        births = self._fleet.plannable()
        if self.model is None or not births:
            raise PlanningError(self.why_none.reason)
        return self._problem(self.model, births, constraints)

    def _no_plan(self, code: NoPlanCode, reason: str) -> list[Effect]:
        """No new plan for now; a working one stays."""
        left_out = self._eligibility.left_out()
        why = NoPlan(code, f"{reason} (left out: {left_out})" if left_out else reason)
        self.outcomes.append(ReplanDone(ok=False, changed=False, reason=why.reason))
        if self.active:
            self.model = self.active.plan.model
            return [self._stays(why.reason)]
        if why == self.why_none:
            return []
        self.why_none = why
        return [Note(f"no plan: {why.reason}", warning=True, kind="no_plan", pipeline=self._settings.pipeline)]

    def _stays(self, reason: str) -> Note:
        assert self.active
        self.why_it_stays = reason
        text = f"epoch {self.active.plan.epoch} stays: {reason}"
        return Note(text, kind="stays", pipeline=self._settings.pipeline)

    def _given_up(self, given_up: GivenUp, now_s: float) -> list[Effect]:
        self.last_failure = f"{given_up.node}: {given_up.reason}"
        if given_up.is_nodes_fault:
            self._eligibility.failed(given_up.plan, given_up.node, given_up.reason, now_s)
        if self.active and self.active.plan.model is self.model:
            self.outcomes.append(ReplanDone(ok=False, changed=False, reason=self.last_failure))
            if self._has_to_shed():
                wait_s = self._timing.settle_s if given_up.is_nodes_fault else self._timing.exclude_s
                self._schedule.ask(now_s + wait_s, forced=True)
            return [self._stays(self.last_failure)]
        self.force(now_s)
        return []
