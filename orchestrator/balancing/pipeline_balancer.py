"""The balancer at work on one pipeline: heartbeats to readings, decisions to plans (pure).

It looks at its pipeline when a heartbeat comes, once a second at the most. How slow a node is believed to be is kept as
the drift of the node's profile, so that every plan is made with it. The balancer also judges what the planner finds
beside a working plan; about plans that somebody asked for it decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from orchestrator.balancing.acceptance import Acceptance, AcceptanceQuery, settled
from orchestrator.balancing.acceptance import AcceptanceDecision as Judgement
from orchestrator.balancing.balancer import Balancer, BalanceSettings, Proposal
from orchestrator.balancing.decision_log import Decision, DecisionLog, Stages, Verdict
from orchestrator.balancing.speed_estimate import Reading
from orchestrator.deployment.plan import DeployedPlan, ReadyPlan, unit_counts
from orchestrator.effects import Effect
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.fleet.profiles import Profiles
from orchestrator.planning.moves.kv_migration import Migration
from orchestrator.planning.moves.move_cost import loading_s
from orchestrator.planning.problem import Problem
from orchestrator.planning.profile import Profile
from orchestrator.planning.solution import Solution, Standby
from schemas.messages import Epoch, Heartbeat, StageMetrics

LOOK_S = 0.9
"""Between two looks."""


class PipelineBalancer:
    """The balancer of one pipeline, and what it has to know."""

    def __init__(
        self,
        fleet: FleetView,
        profiles: Profiles,
        migration_to: Callable[[DeployedPlan], Migration | None],
        history: DecisionLog,
        settings: BalanceSettings | None = None,
    ) -> None:
        """``migration_to``: what moving the open requests to a plan takes; None when they can't be moved live.
        ``history`` is where decisions are recorded."""
        self.balancer = Balancer(settings, history)
        self._fleet = fleet
        self._profiles = profiles
        self._migration_to = migration_to
        self._epoch: Epoch | None = None
        """Of the plan that is watched."""
        self._measured_s: dict[str, float] = {}
        """By node: when the profile was made that its beliefs belong to."""
        self._stored: set[Standby] = set()
        """What nodes have held before, and so have on disk."""
        self._looked_s = -math.inf
        self._moving = False
        """A plan that was judged worth it is on its way."""

    # --- heartbeats -------------------------------------------------------------------------------------------

    def heard(self, beat: Heartbeat, active: ReadyPlan, now_s: float, *, busy: bool) -> tuple[list[Effect], bool]:
        """Take in a node's heartbeat. ``busy``: another plan is on its way, so that figures are no ordinary ones.

        Returns:
            Effects, and whether the planner should be asked.
        """
        self._follow(active, now_s)
        effects = [] if busy else self._observe(beat, active.plan, now_s)
        if busy or now_s < self._looked_s + LOOK_S or not self.balancer.slowness():
            return effects, False
        if self._moving:
            self._moving = False
            self.balancer.failed(now_s)
        self._looked_s = now_s
        return effects, self.balancer.consider(now_s).verdict is Verdict.ASK

    def _follow(self, active: ReadyPlan, now_s: float) -> None:
        plan = active.plan
        if plan.epoch == self._epoch:
            return
        if self._moving:
            self.balancer.moved(now_s)
        else:  # somebody asked for it, or a node has come or gone: no reason to wait with the next one
            self.balancer.begin_again()
        self._epoch, self._moving = plan.epoch, False
        self._stored |= {Standby(s.node, s.start, s.stop, s.start, s.start) for s in plan.solution.stages}

    def _observe(self, beat: Heartbeat, plan: DeployedPlan, now_s: float) -> list[Effect]:
        known = self._fleet.nodes.get(beat.node)
        if known is None or known.health.oddities or beat.node not in plan.nodes:
            return []
        profile = self._profiles.of([known.birth], plan.model.manifest).get(beat.node)
        if profile is None:
            return []
        self._know(profile)
        self.balancer.price(beat.node, known.health.condition.cost_factor)
        reading = reading_of(beat, plan, profile)
        if reading is None:
            return []
        self.balancer.observe(beat.node, reading, now_s)
        return self._profiles.believe(profile, self.balancer.slowness()[beat.node])

    def _know(self, profile: Profile) -> None:
        if self._measured_s.get(profile.node) != profile.measured_s:
            self.balancer.forget(profile.node)
            self._measured_s[profile.node] = profile.measured_s
        self.balancer.know(profile.node, profile.drift)

    def asked(self, tokens: int, now_s: float) -> None:
        """Somebody asked for so many tokens at the most."""
        self.balancer.asked(tokens, now_s)

    # --- judging ----------------------------------------------------------------------------------------------

    def judge(self, question: AcceptanceQuery) -> Judgement:
        """Is what the planner found worth a move?"""
        if verdict := settled(question):
            return verdict
        running, found, problem = question.running, question.found, question.solving.problem
        decision = self.balancer.judge(
            Proposal(
                problem=problem,
                running=running.solution.stages,
                found=found.stages,
                requests=question.work.requests,
                remaining_tokens=question.work.remaining_tokens,
                cost_s=lambda stages: self._cost_s(question, problem, stages),
            ),
            question.now_s,
        )
        if decision.verdict is not Verdict.MOVE:
            # What open requests forbid may be right as soon as there are none.
            later = Acceptance.WHEN_IDLE if _is_for_later(decision, question) else Acceptance.STAY
            return Judgement(later, decision.reason, recorded=True)
        self._moving = True
        chosen = found if decision.stages == found.stages else _as_solution(problem, decision.stages)
        return Judgement(Acceptance.NOW, decision.reason, chosen, recorded=True)

    def _cost_s(self, question: AcceptanceQuery, problem: Problem, stages: Stages) -> float:
        if not question.work.requests:
            return 0.0
        found = question.found if stages == question.found.stages else _as_solution(problem, stages)
        migration = self._migration_to(replace(question.running, solution=found))
        if migration is None:
            return math.inf
        return migration.lost_s + loading_s(problem, question.running.solution.stages, stages, tuple(self._stored))


def _is_for_later(decision: Decision, question: AcceptanceQuery) -> bool:
    return bool(question.work.requests) and decision.gain > 0 and decision.saved_s < decision.cost_s


def _as_solution(problem: Problem, stages: Stages) -> Solution:
    # Not at the top: the planner takes a while to import, and most decisions are about its own plans.
    from orchestrator.planning.solver.solve import evaluate

    return evaluate(problem, stages)


def reading_of(beat: Heartbeat, plan: DeployedPlan, profile: Profile) -> Reading | None:
    """A node's reading, over all its decoding stages in a plan; None when the heartbeat says nothing of them."""
    seen = [(stage, stage.decode_s) for stage in beat.stages if _is_of(stage, plan, beat.node)]
    decoding = [(stage, run_s) for stage, run_s in seen if run_s is not None and stage.decode_rows > 0]
    if not decoding:
        return None
    counts = [unit_counts(ref, plan.model.manifest.num_units) for ref in plan.ring]
    return Reading(
        observed_s=sum(run_s for _, run_s in decoding),
        expected_s=sum(profile.stage_s(counts[stage.stage], stage.decode_rows) for stage, _ in decoding),
        positions=sum(stage.positions for stage, _ in decoding),
    )


def _is_of(stage: StageMetrics, plan: DeployedPlan, node: str) -> bool:
    if (stage.pipeline, stage.epoch) != (plan.pipeline, plan.epoch):
        return False
    return stage.stage < len(plan.ring) and plan.nodes[stage.stage] == node
