"""When to plan, with which nodes, and which plan is in force (pure).

One thing at a time: ``Solving -> Building -> (drain) -> Rollout -> commit``, or back to nothing on the way. The
working plan stays in force until the next one is ready and no request is open on it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.config import Timing
from orchestrator.events import (
    BuildSegments,
    BuiltSegment,
    Effect,
    Note,
    Publish,
    SaveEpoch,
    SavePlan,
    ServedModel,
    SolvePlan,
)
from orchestrator.exclusions import Exclusions
from orchestrator.members import FleetView
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning_input import bytes_beside, fits_beside, prepare_commands, problem_of
from orchestrator.plans import (
    ActivePlan,
    Building,
    Candidate,
    NoPlan,
    NoPlanCode,
    ReplanDone,
    ServingSettings,
    Solving,
    is_worth_it,
    plan_view,
)
from orchestrator.profiles import Profiles
from orchestrator.rollout import Rollout, RolloutState
from orchestrator.wishes import BadWish, Wishes
from schemas.messages import Epoch, Heartbeat, NodeBirth, NodeProfile, Plan
from schemas.topics import PLAN


class PlanDirector:
    """The plan of one pipeline. ``active`` is in force, ``work`` is on its way to replace it."""

    def __init__(
        self,
        fleet: FleetView,
        settings: ServingSettings,
        timing: Timing,
        *,
        generation: int,
        min_nodes: int,
        blob_urls: tuple[str, ...],
        profiles: Profiles | None = None,
        jobs: Iterator[int] | None = None,
    ) -> None:
        """``profiles`` and ``jobs`` (numbers for the worker's jobs) are shared by all pipelines."""
        self._fleet = fleet
        self._settings = settings
        self._timing = timing
        self._min_nodes = min_nodes
        self._blob_urls = blob_urls
        self.generation = generation
        self.model: ServedModel | None = None
        self.active: ActivePlan | None = None
        self.work: Solving | Building | Rollout | None = None
        self.why_none = NoPlan("not_ready", "the orchestrator has only just started: ask again")
        self.last_failure = ""
        self.outcomes: list[ReplanDone] = []
        """Filled here, emptied by the core."""
        self.profiles = profiles or Profiles()
        self.wishes = Wishes()
        """What plans are to respect."""
        self.on_hold = False
        """Which nodes the pipeline gets is being decided: no plan is begun meanwhile."""
        self._exclusions = Exclusions(base_s=timing.exclude_s)
        self._counter = 0
        self._jobs = jobs or itertools.count(1)
        self._epochs: set[Epoch] = set()
        self._due_s = math.inf
        self._not_before_s = 0.0
        self._waits_for_idle = False
        self._forced = False
        self._planned_once = False
        self._waits_for_profiles = False
        self._refused: set[str] = set()
        """Nodes that break the operator's rules about batteries."""
        self._last_stages: tuple[Stage, ...] = ()
        """Of the newest committed plan: who is left keeps its place, and so what it has on disk."""

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Must no request be opened on the working plan? Its successor only waits for it to fall idle, or is to serve
        another model."""
        if self.active and self.active.plan.model is not self.model:
            return True
        if isinstance(self.work, Rollout):
            return self.work.state is RolloutState.READY
        return isinstance(self.work, Building) and bool(self.work.segments)

    @property
    def busy(self) -> bool:
        """Is a plan on its way, or due?"""
        return self.work is not None or self._due_s < math.inf

    def excludes(self, birth: NodeBirth) -> bool:
        """Is this start of a node left out, because it failed to load a segment?"""
        return self._exclusions.excludes(birth.node, birth.incarnation)

    def state(self) -> str:
        """In a word or two for people."""
        if isinstance(self.work, Rollout):
            return "rolling out"
        if self.work is not None:
            return "planning"
        return "serving" if self.active else "waiting"

    def progress(self) -> dict[str, dict[str, int]]:
        """Bytes of the segments on their way to the nodes."""
        return self.work.progress_of_nodes() if isinstance(self.work, Rollout) else {}

    # --- what happened ----------------------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """Messages flow from now on; the fleet is believed to be complete a moment later."""
        self._not_before_s = self._due_s = now_s + self._timing.start_s

    def use_model(self, model: ServedModel, now_s: float) -> None:
        """Serve this model from the next plan on."""
        self.model = model
        self.force(now_s)

    def no_model(self, reason: str) -> None:
        """There is no model that could be served."""
        if self.model is None:
            self.why_none = NoPlan("no_model", reason)
            self._due_s = math.inf

    def force(self, now_s: float) -> None:
        """Plan as soon as possible, whatever it gains."""
        self._forced = True
        self._due_s = max(now_s, self._not_before_s)

    def joined(self, now_s: float) -> None:
        """A node can be used, perhaps in the place of one that should give up its layers."""
        self._forced = self._forced or any(self._must_go(node) for node in self.nodes_in_use())
        self._due_s = max(now_s + self._timing.settle_s, self._not_before_s)

    def drained(self, node: str, now_s: float) -> None:
        """A node should give up its layers: plan without it at once, if it has any."""
        if node in self.nodes_in_use():
            self.force(now_s)

    def nodes_in_use(self) -> set[str]:
        """Of the plan in force, and of the one on its way."""
        plans = [self.active.plan] if self.active else []
        plans += [self.work.plan] if isinstance(self.work, Building | Rollout) else []
        nodes = {node for plan in plans for node in plan.nodes}
        return nodes | {birth.node for birth in self.work.births} if isinstance(self.work, Solving) else nodes

    def _must_go(self, node: str) -> bool:
        """Should this node have no layers, though it is here?"""
        condition = self._fleet.conditions().get(node)
        return bool(self._fleet.why_drained(node)) or bool(condition and self.wishes.refusal(node, condition))

    def left(self, now_s: float) -> None:
        """A node can't be used any more. Rings find out by themselves; why there is no plan may have changed."""
        if not self.active and not self.work:
            self._due_s = min(self._due_s, max(now_s, self._not_before_s))

    def heard_plan(self, plan: Plan, *, retained: bool) -> tuple[list[Effect], bool]:
        """A plan on the bus.

        Returns:
            Effects, and whether another orchestrator has taken over.
        """
        if plan.epoch in self._epochs:
            return [], False
        if self._epochs:
            return [], plan.epoch.generation >= self.generation
        self.generation = max(self.generation, plan.epoch.generation + 1)
        # The nodes of an old ring may hold segments whose requests nobody follows any more.
        return (self._take_down(plan) if plan.ring and retained else []), False

    def republish(self) -> list[Effect]:
        """The broker may have lost what it retained."""
        return [_publish(self.active.plan.message())] if self.active else []

    def stop(self) -> list[Effect]:
        """The pipeline goes down: nodes unload."""
        effects: list[Effect] = []
        if isinstance(self.work, Rollout):
            effects += self.work.fail("the orchestrator", "it was stopped")
        if self.active:
            effects += self._take_down(self.active.plan.message())
        self.active = self.work = None
        return effects

    def solved(self, job: int, outcome: Solution | Infeasible, now_s: float) -> list[Effect]:
        """The planner's answer."""
        solving = self.work
        if not isinstance(solving, Solving) or solving.job != job:
            return []
        self.work = None
        if solving.model is not self.model:
            return []  # another model was chosen meanwhile, and planning for it is due
        if isinstance(outcome, Infeasible):
            return self._no_plan("no_memory", f"{outcome.reason}; {outcome.smallest_fix}".rstrip("; "))
        incarnations = {birth.node: birth.incarnation for birth in solving.births}
        if not all(self._fleet.is_usable(node, incarnations[node]) for node in outcome.nodes):
            self._forced = self._forced or solving.forced
            self._due_s = now_s
            return [Note("a node went away while the plan was made: planning again")]
        if self.active and not is_worth_it(self.active.plan, outcome, solving):
            self.outcomes.append(ReplanDone(ok=True, changed=False))
            return []
        plan = Candidate(
            pipeline=self._settings.pipeline,
            epoch=self._next_epoch(),
            model=solving.model,
            context_tokens=solving.context_tokens,
            slots=self._settings.slots,
            wire_dtype=self._settings.wire_dtype,
            chunk_tokens=self._settings.chunk_tokens,
            solution=outcome,
            incarnations={node: incarnations[node] for node in outcome.nodes},
        )
        self.work = Building(job, plan)
        return [SaveEpoch(plan.epoch), BuildSegments(job, plan.model.name, plan.ring)]

    def built(self, job: int, segments: tuple[BuiltSegment, ...]) -> None:
        """The graphs are there; ``advance`` starts the roll-out."""
        if isinstance(self.work, Building) and self.work.job == job:
            self.work = Building(job, self.work.plan, segments)

    def job_failed(self, job: int, reason: str) -> list[Effect]:
        """Planning or assembling ended with an error."""
        if not isinstance(self.work, Solving | Building) or self.work.job != job:
            return []
        self.work = None
        return self._no_plan("not_ready", reason)

    def reply(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """A node's reply about a segment, or about itself."""
        if isinstance(message, NodeProfile):
            return self._profiled(node, message, now_s)
        if isinstance(message, Heartbeat):
            self._check_battery_rules(node, now_s)
            return self._observe(node, message)
        return self.work.reply(node, message, now_s) if isinstance(self.work, Rollout) else []

    # --- what nodes measure -----------------------------------------------------------------------------------

    def _profiled(self, node: str, profile: NodeProfile, now_s: float) -> list[Effect]:
        known = self._fleet.nodes.get(node)
        if known is None or known.birth.incarnation != profile.incarnation:
            return []
        effects = self.profiles.answer(known.birth, profile, now_s)
        if self._waits_for_profiles and not self._profiles_due_s(now_s) > now_s:
            self._due_s = now_s
        return effects

    def _profiles_due_s(self, now_s: float) -> float:
        assert self.model
        return self.profiles.awaited_until_s(self._fleet.usable(), self.model.manifest, now_s)

    def _observe(self, node: str, beat: Heartbeat) -> list[Effect]:
        known = self._fleet.nodes.get(node)
        return self.profiles.heard(known.birth, self.active.plan, beat) if self.active and known else []

    def _check_battery_rules(self, node: str, now_s: float) -> None:
        """A node may come to break the operator's rules while it serves, or to respect them again."""
        condition = self._fleet.conditions().get(node)
        if condition is None or (self.wishes.refusal(node, condition) is not None) is (node in self._refused):
            return
        self._refused ^= {node}
        if node in self._refused:
            self.drained(node, now_s)
        else:
            self.joined(now_s)

    # --- a broken ring ----------------------------------------------------------------------------------------

    def ring_is_broken(self, now_s: float) -> bool:
        """Is a node of the working ring gone for good?"""
        return now_s >= self._breaks_s()

    def _breaks_s(self) -> float:
        """When the ring counts as broken: at once for a node that started again, after a moment for one cut off."""
        breaks_s = math.inf
        for name, incarnation in self.active.plan.incarnations.items() if self.active else ():
            if not self._fleet.is_usable(name, incarnation):
                node = self._fleet.nodes[name]
                may_return = node.birth.incarnation == incarnation and not node.refused
                since_s = node.offline_since_s + self._timing.loss_settle_s if may_return else -math.inf
                breaks_s = min(breaks_s, since_s)
        return breaks_s

    def drop_ring(self, now_s: float) -> list[Effect]:
        """The working ring is broken: take it down and plan again at once."""
        assert self.active
        plan = self.active.plan
        effects: list[Effect] = []
        if isinstance(self.work, Rollout):  # the down plan's epoch lies above its epoch
            effects += self.work.fail(", ".join(self.work.plan.solution.nodes), "the working ring broke")
        self.work = None
        lost = [node for node, start in plan.incarnations.items() if not self._fleet.is_usable(node, start)]
        self.active = None
        self._due_s = now_s
        note = f"epoch {plan.epoch} lost {', '.join(lost)}: planning with what is left"
        return [*effects, Note(note, warning=True), *self._take_down(plan.message())]

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, now_s: float, *, open_requests: int, idle: bool) -> list[Effect]:
        """Do what is due. ``idle``: no request is open or waits."""
        effects: list[Effect] = []
        if isinstance(self.work, Rollout):
            effects += self.work.check(self._fleet.is_usable, now_s)
            if self.work.state is RolloutState.FAILED:
                effects += self._rollout_failed(self.work, now_s)
            elif self.work.state is RolloutState.READY and (open_requests == 0 or not self.active):
                effects += self._commit(self.work)
        if isinstance(self.work, Building) and self.work.segments:
            effects += self._roll_out(self.work, now_s, open_requests)
        if self._exclusions.expire(now_s):
            self.joined(now_s)
        if self.work is None and now_s >= self._due_s and not self.on_hold:
            self._waits_for_idle = bool(self.active) and not self._forced and not idle
            if not self._waits_for_idle:
                effects += self._solve(now_s)
        return effects

    def next_deadline_s(self) -> float:
        """When ``advance`` or ``ring_is_broken`` next have something to do by time alone."""
        due = [self._exclusions.next_deadline_s(), self._breaks_s()]
        if isinstance(self.work, Rollout):
            due.append(self.work.next_deadline_s())
        elif self.work is None and not self._waits_for_idle and not self.on_hold:
            due.append(self._due_s)
        return min(due)

    # --- the way of a plan ------------------------------------------------------------------------------------

    def _solve(self, now_s: float) -> list[Effect]:
        forced, self._forced, self._due_s = self._forced, False, math.inf
        self._waits_for_profiles = False
        if self.model is None:
            return []
        usable = self._fleet.usable()
        births = tuple(b for b in self._fleet.plannable() if not self._exclusions.excludes(b.node, b.incarnation))
        if not usable:
            return self._no_plan("no_nodes", "no nodes: start one with linguabus-node --broker URL")
        if not self._planned_once and len(usable) < self._min_nodes:
            return self._no_plan("not_ready", f"waiting for {self._min_nodes} nodes, {len(usable)} here so far")
        if not births:
            return self._no_plan("no_nodes", "no node can be given layers")
        asked = self.profiles.ask(births, self.model, self._blob_urls, self._settings.wire_dtype, now_s)
        awaited_until_s = self._profiles_due_s(now_s)
        if awaited_until_s > now_s:
            self._forced, self._due_s, self._waits_for_profiles = forced, awaited_until_s, True
            return asked
        try:
            problem = self._problem(self.model, births, self.wishes)
        except (PlanningError, BadWish) as error:
            return self._no_plan("not_ready", str(error))
        job = next(self._jobs)
        self.work = Solving(job, self.model, births, problem.context_tokens, forced)
        return [SolvePlan(job, problem)]

    def _problem(self, model: ServedModel, births: Sequence[NodeBirth], wishes: Wishes) -> Problem:
        profiles = self.profiles.of(births, model.manifest)
        conditions = self._fleet.conditions()
        return problem_of(self._settings, model.manifest, births, profiles, self._last_stages, wishes, conditions)

    def preview(self, wishes: Wishes) -> Problem:
        """The planner's question with other wishes, asked of the nodes that are here.

        Raises:
            PlanningError, BadWish: there is nothing to ask; the message says why.
        """
        births = self._fleet.plannable()
        if self.model is None or not births:
            raise PlanningError(self.why_none.reason)
        return self._problem(self.model, births, wishes)

    def _no_plan(self, code: NoPlanCode, reason: str) -> list[Effect]:
        """No new plan for now; a working one stays."""
        drained = [(birth.node, self._fleet.why_drained(birth.node)) for birth in self._fleet.usable()]
        reasons = [self._exclusions.reasons(), *(f"{node}: {reason}" for node, reason in drained if reason)]
        left_out = "; ".join(filter(None, reasons))
        why = NoPlan(code, f"{reason} (left out: {left_out})" if left_out else reason)
        self.outcomes.append(ReplanDone(ok=False, changed=False, reason=why.reason))
        if self.active:
            self.model = self.active.plan.model
            return [Note(f"epoch {self.active.plan.epoch} stays: {why.reason}")]
        if why == self.why_none:
            return []
        self.why_none = why
        return [Note(f"no plan: {why.reason}", warning=True)]

    def _roll_out(self, building: Building, now_s: float, open_requests: int) -> list[Effect]:
        """Start preparing, beside the working plan where memory allows it, else once nobody uses that."""
        effects: list[Effect] = []
        beside: dict[str, int] = {}
        if self.active:
            births = {birth.node: birth for birth in self._fleet.usable()}
            if fits_beside(building.plan, self.active.plan, births):
                beside = bytes_beside(self.active.plan, births)
            elif open_requests:
                return []
            else:
                effects += self._take_down(self.active.plan.message())
                self.active = None
                # Down plans release every epoch below their own.
                building = replace(building, plan=replace(building.plan, epoch=self._next_epoch()))
                effects.append(SaveEpoch(building.plan.epoch))
        plan = replace(building.plan, segments=building.segments)
        commands = prepare_commands(plan, self._blob_urls, beside)
        self.work = Rollout(plan, silence_s=self._timing.prepare_silence_s)
        return [*effects, *self.work.start(commands, now_s)]

    def _rollout_failed(self, rollout: Rollout, now_s: float) -> list[Effect]:
        self.work = None
        node = rollout.failed_node
        incarnation = rollout.plan.incarnations[node]
        self.last_failure = f"{node}: {rollout.reason}"
        if self._fleet.is_usable(node, incarnation):
            self._exclusions.add(node, incarnation, rollout.reason, now_s)
        if self.active and self.active.plan.model is self.model:
            self.outcomes.append(ReplanDone(ok=False, changed=False, reason=self.last_failure))
            return [Note(f"epoch {self.active.plan.epoch} stays")]
        self.force(now_s)
        return []

    def _commit(self, rollout: Rollout) -> list[Effect]:
        plan = rollout.plan
        self.active, self.work = ActivePlan(plan, rollout.ready), None
        self._planned_once = True
        self._last_stages = plan.solution.stages
        self._epochs.add(plan.epoch)
        self.outcomes.append(ReplanDone(ok=True, changed=True))
        predicted = plan.solution.predicted
        return [
            SavePlan(plan.epoch, plan.model.name, plan_view(plan, rollout.ready)),
            _publish(plan.message()),
            Note(
                f"epoch {plan.epoch} of {plan.pipeline} is in force: {plan.model.name} on"
                f" {', '.join(plan.solution.nodes)},"
                f" predicted {predicted.tokens_per_s:.1f} tokens/s"
            ),
        ]

    def _take_down(self, like: Plan) -> list[Effect]:
        """Publish an empty ring in a new epoch: nodes release everything older."""
        down = replace(like, epoch=self._next_epoch(), ring=())
        self._epochs.add(down.epoch)
        return [SaveEpoch(down.epoch), _publish(down)]

    def _next_epoch(self) -> Epoch:
        self._counter += 1
        return Epoch(generation=self.generation, counter=self._counter)


def _publish(plan: Plan) -> Publish:
    return Publish(PLAN.format(pipeline=plan.pipeline), plan, qos=PLAN.qos, retain=PLAN.retain)
