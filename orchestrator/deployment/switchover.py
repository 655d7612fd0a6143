"""The switchover: how a plan comes into force, and another in its place (pure).

``Building -> Rollout -> commit``. Open requests that can go on in the next plan are moved to it live
(`live_migration`); otherwise the working plan stays in force until no request is open on it. A working plan beside
which the next one does not fit is taken down first: once nobody uses it, or at once where somebody insists; requests
then go on by replay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.deployment.coexistence import bytes_beside, fits_beside, migration_of
from orchestrator.deployment.epochs import Epochs
from orchestrator.deployment.live_migration import LiveMigration, MigrationPhase
from orchestrator.deployment.migration_log import MigrationLog, describe_move
from orchestrator.deployment.missing_nodes import MissingNodes
from orchestrator.deployment.open_requests import OpenRequests
from orchestrator.deployment.plan import Building, DeployedPlan, ReadyPlan
from orchestrator.deployment.plan_view import plan_view, successor_view
from orchestrator.deployment.rollout import Rollout, RolloutState, prepare_commands, why_too_long
from orchestrator.effects import Effect, Note, Publish, SaveEpoch, SavePlan, SaveRunning
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.fleet.profiles import Profiles
from orchestrator.model.served import BuiltSegment
from orchestrator.planning.moves.kv_migration import Migration
from orchestrator.planning.problem import Stage
from orchestrator.timing import Timing
from schemas.messages import (
    Basis,
    FetchProgress,
    Heartbeat,
    LoadFailureCode,
    MovesView,
    Plan,
    PlanOnItsWay,
    SegmentFailed,
)
from schemas.topics import PLAN


@dataclass(frozen=True)
class GivenUp:
    """A plan that did not come into force. ``is_nodes_fault``: the node could not hold its segment."""

    plan: DeployedPlan
    node: str
    reason: str
    is_nodes_fault: bool
    code: LoadFailureCode = "internal"


class Switchover:
    """The plan in force, and the one that is to follow it."""

    def __init__(
        self,
        fleet: FleetView,
        requests: OpenRequests,
        profiles: Profiles,
        timing: Timing,
        epochs: Epochs,
        *,
        blob_urls: tuple[str, ...],
    ) -> None:
        self.active: ReadyPlan | None = None
        self.next: Building | Rollout | LiveMigration | None = None
        self.epochs = epochs
        self.moves = MigrationLog()
        self.missing = MissingNodes(fleet, requests, timing)
        self.newest: ReadyPlan | None = None
        """The plan that was committed last, also once it is taken down."""
        self._fleet = fleet
        self._requests = requests
        self._profiles = profiles
        self._timing = timing
        self._blob_urls = blob_urls

    # --- what others ask --------------------------------------------------------------------------------------

    @property
    def last_stages(self) -> tuple[Stage, ...]:
        """The stages of the newest committed plan: who is left keeps its place, and so what it has on disk."""
        return self.newest.plan.solution.stages if self.newest else ()

    @property
    def draining(self) -> bool:
        """Must no request be opened on the working plan, because another one is about to follow?"""
        match self.next:
            case Building(segments=segments):
                return bool(segments)
            case Rollout(state=state):
                return state is RolloutState.READY
            case LiveMigration():
                return self.next.is_holding
        return False

    def state(self) -> str:
        """The state in a word or two for people; empty when nothing goes on."""
        match self.next:
            case Building():
                return "planning"
            case Rollout():
                return "rolling out"
            case LiveMigration():
                return "moving"
        return ""

    def progress(self) -> dict[str, FetchProgress]:
        """Bytes of the segments on their way to the nodes."""
        return self.next.progress_of_nodes() if isinstance(self.next, Rollout) else {}

    def next_view(self) -> PlanOnItsWay | None:
        """The plan that is to follow."""
        return successor_view(self.next.plan, self.state()) if self.next else None

    def moves_view(self) -> MovesView:
        """Live moves: the one under way, and what became of the others."""
        return self.moves.view(self.next if isinstance(self.next, LiveMigration) else None)

    def migration_to(self, plan: DeployedPlan) -> Migration | None:
        """What moving the open requests to another plan would take; None when they can't be moved live."""
        assert self.active
        running = self.active.plan
        births = {birth.node: birth for birth in self._fleet.usable()}
        if not plan.can_take_over(running) or not fits_beside(plan, running, births):
            return None
        return self._migration(plan, running)

    def _migration(self, plan: DeployedPlan, running: DeployedPlan) -> Migration:
        births = self._fleet.usable()
        profiles = self._profiles.of(births, plan.model.manifest)
        rates = self.moves.rates({node: known.measured.link_bytes_per_s for node, known in profiles.items()})
        work = self._requests.open_work
        return migration_of(plan, running, work, rates, limit_s=self._timing.move_copy_s)

    def adopt(self, plan: DeployedPlan, now_s: float) -> list[Effect]:
        """Go on with a plan that an earlier start left, and what is open in it; the broker may have forgotten it."""
        self.active = self.newest = ReadyPlan(plan, {})
        self.epochs.published(plan.pipeline, plan.epoch)
        text = f"epoch {plan.epoch} of {plan.pipeline} goes on: {plan.model.name} on {', '.join(plan.solution.nodes)}"
        note = Note(text, kind="plan", pipeline=plan.pipeline)
        return [SaveEpoch(self.epochs.latest), *_tell(plan.message()), note, *self._requests.go_on(self.active, now_s)]

    # --- the way of a plan ------------------------------------------------------------------------------------

    def begin(self, job: int, plan: DeployedPlan, *, forced: bool) -> list[Effect]:
        """Bring a solved plan into force, in the upcoming epoch."""
        plan = replace(plan, epoch=self.epochs.next())
        self.next = Building(job, plan, forced=forced)
        return [SaveEpoch(plan.epoch), plan.build(job)]

    def built(self, job: int, segments: tuple[BuiltSegment, ...]) -> str:
        """Take in the next plan's graphs; ``advance`` starts the roll-out. Returns why it can't; empty when it can."""
        if not isinstance(self.next, Building) or self.next.job != job:
            return ""
        running = self.active.plan if self.active else None
        too_long = why_too_long(replace(self.next.plan, segments=segments), self._blob_urls, running)
        if not too_long:
            self.next = replace(self.next, segments=segments)
        return too_long

    def build_failed(self, job: int) -> bool:
        """Give up the plan whose graphs could not be assembled; false when they are not awaited."""
        if not isinstance(self.next, Building) or self.next.job != job:
            return False
        self.next = None
        return True

    def reply(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """Take in a node's reply about its segment or about the move."""
        return self.next.reply(node, message, now_s) if isinstance(self.next, Rollout | LiveMigration) else []

    def advance(self, now_s: float) -> tuple[list[Effect], GivenUp | None]:
        """Do what is due, and return the plan that was given up, if one was."""
        effects: list[Effect] = []
        if isinstance(self.next, Rollout):
            rollout = self.next
            effects += rollout.check(self._fleet.is_usable, now_s)
            if rollout.state is RolloutState.FAILED:
                self.next = None
                return effects, GivenUp(rollout.plan, rollout.failed_node, rollout.reason, True, rollout.code)
            if rollout.state is RolloutState.READY:
                effects += self._take_over(rollout, now_s)
        if isinstance(self.next, LiveMigration):
            move = self.next
            effects += move.check(self._fleet.is_usable, now_s, in_prefill=self._requests.in_prefill)
            if move.phase is MigrationPhase.FAILED:
                self._end_move()
                self.moves.gave_up(move)
                code = move.rollout.code
                return effects, GivenUp(move.plan, move.failed_node, move.reason, move.is_nodes_fault, code)
            if move.phase is MigrationPhase.READY or not self._requests.open_count:
                effects += self._switch(move, now_s)
        if isinstance(self.next, Building) and self.next.segments:
            effects += self._roll_out(self.next, now_s)
        return effects, None

    def next_deadline_s(self) -> float:
        """When ``advance`` next has something to do by time alone."""
        return self.next.next_deadline_s() if isinstance(self.next, Rollout | LiveMigration) else math.inf

    def _roll_out(self, building: Building, now_s: float) -> list[Effect]:
        """Start preparing the next plan, beside the working one where memory allows it."""
        effects: list[Effect] = []
        beside: dict[str, int] = {}
        basis: Basis | None = None
        plan = replace(building.plan, segments=building.segments)
        if self.active:
            running = self.active.plan
            births = {birth.node: birth for birth in self._fleet.usable()}
            goes_on = plan.can_take_over(running)
            if fits_beside(plan, running, births):
                beside = bytes_beside(plan, running, births)
                basis = Basis(epoch=running.epoch, ring=running.ring) if goes_on else None
            elif self._requests.open_count and not self._replaces(plan) and not (goes_on and building.forced):
                return []
            else:
                if self._requests.open_count:
                    effects += self._requests.ring_broken(now_s)
                effects += self.take_down(running.message())
                # Down plans release every epoch below their own.
                plan = replace(plan, epoch=self.epochs.next())
                effects.append(SaveEpoch(plan.epoch))
        self.next = Rollout(plan, silence_s=self._timing.prepare_silence_s)
        commands = prepare_commands(plan, self._blob_urls, beside, basis)
        return [*effects, *self.next.start(commands, now_s)]

    def _replaces(self, plan: DeployedPlan) -> bool:
        """Is a plan to follow a ring that stands still? Requests go on in it, if it is of their model."""
        return self.active is not None and bool(self.missing.awaited) and plan.model is self.active.plan.model

    def _take_over(self, rollout: Rollout, now_s: float) -> list[Effect]:
        """Commit a plan whose stages are all ready, or begin to move what is open."""
        if self._replaces(rollout.plan):
            return self.drop_ring(now_s)
        if not self.active or not self._requests.open_count:
            return self._commit(rollout)
        running = self.active.plan
        if not rollout.plan.can_take_over(running):
            return []
        self.next = LiveMigration(running, rollout, self._migration(rollout.plan, running), self._timing)
        self._requests.prepare_move(rollout.plan.nodes)
        return self.next.start(now_s)

    def _switch(self, move: LiveMigration, now_s: float) -> list[Effect]:
        """Let open requests go on in the next ring: its stages hear of them before the plan is committed."""
        self._end_move()
        requests = self._requests.open_count
        record = self.moves.succeeded(move, requests, now_s)
        plan = ReadyPlan(move.plan, move.rollout.ready)
        opened = self._requests.move(plan, move.held, now_s)
        note = Note(f"{describe_move(record)}; {requests} requests go on", kind="moved", pipeline=move.plan.pipeline)
        return [*opened, *self._commit(move.rollout), note]

    def _end_move(self) -> None:
        self.next = None
        self._requests.prepare_move(())

    def _commit(self, rollout: Rollout) -> list[Effect]:
        plan = rollout.plan
        self.active = self.newest = ReadyPlan(plan, rollout.ready)
        self.missing.forget()
        self.next = None
        self.epochs.published(plan.pipeline, plan.epoch)
        predicted = plan.solution.predicted
        return [
            *_tell(plan.message()),
            SavePlan(plan.epoch, plan_view(plan, rollout.ready)),
            Note(
                f"epoch {plan.epoch} of {plan.pipeline} is in force: {plan.model.name} on"
                f" {', '.join(plan.solution.nodes)},"
                f" predicted {predicted.tokens_per_s:.1f} tokens/s",
                kind="plan",
                pipeline=plan.pipeline,
            ),
        ]

    # --- the end of a plan ------------------------------------------------------------------------------------

    def ring_breaks_s(self) -> float:
        """When something has to be done about nodes that are missing from the ring."""
        return self.missing.due_s(self.active.plan if self.active else None)

    def keep_ring(self, now_s: float) -> tuple[list[Effect], bool]:
        """Keep the ring, some of whose nodes are missing, until there is a plan without them or they are back.

        Returns:
            Effects, and false where it has to be given up, or its successor is ready.
        """
        assert self.active
        if not self.missing.await_return(self.active.plan, now_s):
            return [], False
        effects = self.give_up_next()
        return effects, self.next is None

    def returned(self) -> frozenset[str]:
        """Take the nodes that were awaited and are back."""
        return self.missing.returned(self.active.plan if self.active else None)

    def is_broken_by(self, node: str, message: SegmentFailed) -> bool:
        """Does a node of the working ring say that it can't go on with its part?"""
        if not self.active or node not in self.active.plan.nodes:
            return False
        plan = self.active.plan
        said = (message.pipeline, message.epoch, message.incarnation)
        return said == (plan.pipeline, plan.epoch, plan.incarnations[node])

    def has_lost_stage(self, node: str, beat: Heartbeat) -> bool:
        """Does a node of the working ring, as it was when that was made, hold less of it than it should?"""
        if not self.active or self.active.plan.incarnations.get(node) != beat.incarnation:
            return False
        plan = self.active.plan
        held = {stage.stage for stage in beat.stages if (stage.pipeline, stage.epoch) == (plan.pipeline, plan.epoch)}
        return any(stage.node == node and number not in held for number, stage in enumerate(plan.ring))

    def drop_ring(self, now_s: float, *, without: str = "", why: str = "") -> list[Effect]:
        """Give up the working ring, which is broken: the next one follows at once if it is ready, else none.

        ``without`` is a node that is here but computes what is wrong, and ``why`` what it says.
        """
        assert self.active
        interrupted = self._requests.ring_broken(now_s)
        plan = self.active.plan
        lost = f"{without} ({why})" if without else ", ".join(sorted(self.missing.of(plan)))
        note = f"epoch {plan.epoch} lost {lost}"
        if successor := self._ready_successor(without):
            self._end_move()
            return [*interrupted, self._lost(f"{note}: its successor is ready"), *self._commit(successor)]
        effects = self._give_up_next()
        # The down plan's epoch lies above that of the plan that was given up.
        told = self._lost(f"{note}: planning with what is left")
        return [*interrupted, *effects, told, *self.take_down(plan.message())]

    def _lost(self, text: str) -> Note:
        assert self.active
        return Note(text, warning=True, kind="broken", pipeline=self.active.plan.pipeline)

    def _ready_successor(self, without: str = "") -> Rollout | None:
        """The roll-out that could follow at once: ready, and all of its nodes are here, but not ``without``."""
        rollout = self.next.rollout if isinstance(self.next, LiveMigration) else self.next
        if not isinstance(rollout, Rollout) or rollout.state is not RolloutState.READY:
            return None
        starts = rollout.plan.incarnations.items()
        return (
            rollout if all(name != without and self._fleet.is_usable(name, start) for name, start in starts) else None
        )

    def republish(self) -> list[Effect]:
        """Say again what may be lost with the connection to the broker: replies, and perhaps the retained plan."""
        effects: list[Effect] = []
        if isinstance(self.next, Rollout):
            effects += self.next.again()
        if isinstance(self.next, LiveMigration):
            effects += self.next.fail("the orchestrator", "it lost its connection to the broker")
        return [*effects, _publish(self.active.plan.message())] if self.active else effects

    def stop(self) -> list[Effect]:
        """Take the plan down, so that nodes unload."""
        effects = self._give_up("the orchestrator", "it was stopped")
        return [*effects, *self.take_down(self.active.plan.message())] if self.active else effects

    def give_up_next(self) -> list[Effect]:
        """Give up the plan that is to follow, unless it could at once: nodes of the ring are missing, or back."""
        return [] if self._ready_successor() else self._give_up_next()

    def give_up_unready(self, reason: str) -> list[Effect]:
        """Give up the plan that is to follow, unless a part of it is loaded already."""
        if isinstance(self.next, LiveMigration) or (isinstance(self.next, Rollout) and self.next.ready):
            return []
        return self._give_up("the orchestrator", reason)

    def _give_up_next(self) -> list[Effect]:
        nodes = ", ".join(self.next.plan.solution.nodes) if self.next else ""
        return self._give_up(nodes, "the working ring broke")

    def _give_up(self, node: str, reason: str) -> list[Effect]:
        effects = self.next.fail(node, reason) if isinstance(self.next, Rollout | LiveMigration) else []
        self._end_move()
        return effects

    def take_down(self, like: Plan) -> list[Effect]:
        """Publish an empty ring in a new epoch: nodes release everything older, an earlier start's too."""
        self.active = None
        self.missing.forget()
        down = replace(like, epoch=self.epochs.next(), ring=(), starts=())
        self.epochs.published(down.pipeline, down.epoch)
        return [SaveEpoch(down.epoch), *_tell(down)]


def _tell(plan: Plan) -> list[Effect]:
    """Put a plan in force: whoever goes on after this start knows it from the broker or from the database."""
    return [SaveRunning(plan), _publish(plan)]


def _publish(plan: Plan) -> Publish:
    return Publish(PLAN.format(pipeline=plan.pipeline), plan, qos=PLAN.qos, retain=PLAN.retain)
