"""The live move of open requests from a working ring to a prepared one (pure).

``COPYING -> HOLDING -> FINISHING -> READY``, or ``FAILED`` on the way. KV rows are copied while decoding goes on; then
stage 0 is held at a token boundary, the last rows follow, and then the switchover. Where rows are to be computed
again nothing is copied: ``HOLDING -> READY``. Until the switch the working ring can go on at any time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.deployment.rollout import Rollout
from orchestrator.effects import Effect, Note, command
from orchestrator.planning.moves.kv_migration import Migration
from orchestrator.text.figures import megabytes
from orchestrator.timing import Timing
from schemas.handover import kv_copies
from schemas.messages import (
    CopyKv,
    FinishKv,
    GoOn,
    HoldRequests,
    KvCopied,
    KvTarget,
    MoveUnderWay,
    RequestsHeld,
    SegmentFailed,
    StageRef,
)
from schemas.units import overlap

_MARGIN_S = 1.0
"""Stage 0 goes on by itself this long after we would have told it to."""


class MigrationPhase(enum.Enum):
    """The phase of a move."""

    COPYING = "copying"
    HOLDING = "holding"
    FINISHING = "finishing"
    READY = "ready"
    FAILED = "failed"


class LiveMigration:
    """One live move of open requests to the ring of a prepared plan, which is that of ``rollout``.

    Once READY, ``held`` has the positions whose KV rows are in the new ring, by request.
    """

    def __init__(self, running: DeployedPlan, rollout: Rollout, migration: Migration, timing: Timing) -> None:
        self.running = running
        self.rollout = rollout
        self.migration = migration
        self.phase = MigrationPhase.COPYING
        self.held: dict[str, int] = {}
        self.failed_node = ""
        self.reason = ""
        self.is_nodes_fault = False
        """Could ``failed_node`` not hold its new stage?"""
        self.copied_s = 0.0
        """From the command to copy until all had caught up."""
        self.caught_up: dict[int, KvCopied] = {}
        """By stage: the source's report that it follows decoding."""
        self.finished: dict[int, KvCopied] = {}
        """By stage: the source's last report."""
        self._timing = timing
        self._targets = _targets(running, rollout.plan) if migration.copies else {}
        """By stage of the working ring: where its rows go."""
        self._missing: set[int] = set()
        """Stages whose report the phase waits for."""
        self._begun_s = 0.0
        """Of the phase."""
        self._held_s = 0.0

    @property
    def plan(self) -> DeployedPlan:
        """The plan that is to be in force."""
        return self.rollout.plan

    @property
    def is_holding(self) -> bool:
        """Is the working ring being held, so that it must be given no more requests?"""
        return self.phase in (MigrationPhase.HOLDING, MigrationPhase.FINISHING, MigrationPhase.READY)

    @property
    def copied_bytes(self) -> int:
        """Bytes of KV rows copied, as far as sources have reported."""
        return sum(report.sent_bytes for report in {**self.caught_up, **self.finished}.values())

    def paused_s(self, now_s: float) -> float:
        """Time since stage 0 was told to hold."""
        return now_s - self._held_s

    def start(self, now_s: float) -> list[Effect]:
        """Tell the sources to copy."""
        self._enter(MigrationPhase.COPYING, now_s)
        epoch, to_epoch = self.running.epoch, self.plan.epoch
        how = (
            f"copying {megabytes(self.migration.copy_bytes, 1)} of KV rows"
            if self._targets
            else "no KV rows to copy"
            if self.migration.copies
            else "KV rows are computed again"
        )
        return [
            Note(f"epoch {to_epoch}: taking open requests over from epoch {epoch}, {how}"),
            *(
                command(
                    self.running.nodes[stage],
                    CopyKv(
                        pipeline=self.running.pipeline, epoch=epoch, stage=stage, to_epoch=to_epoch, targets=targets
                    ),
                )
                for stage, targets in self._targets.items()
            ),
        ]

    def reply(self, node: str, message: Any, now_s: float) -> list[Effect]:
        """Take in a node's report about the move; reports about another move are ignored."""
        match message:
            case SegmentFailed() if message.epoch == self.plan.epoch:
                if message.incarnation == self.plan.incarnations.get(node):
                    self.is_nodes_fault, self.rollout.code = True, message.code
                    return self.fail(node, message.reason)
            case KvCopied() if self._is_ours(message) and message.stage in self._missing:
                if node == self.running.nodes[message.stage]:
                    return self._copied(message, now_s)
            case RequestsHeld() if self._is_ours(message) and node == self.running.nodes[0]:
                if self.phase is MigrationPhase.HOLDING:
                    return self._requests_held(message, now_s)
        return []

    def _is_ours(self, message: KvCopied | RequestsHeld) -> bool:
        return (message.pipeline, message.epoch) == (self.running.pipeline, self.running.epoch)

    def _copied(self, report: KvCopied, now_s: float) -> list[Effect]:
        if self.phase is not (MigrationPhase.FINISHING if report.final else MigrationPhase.COPYING):
            return []
        (self.finished if report.final else self.caught_up)[report.stage] = report
        self._missing.discard(report.stage)
        if self._missing:
            return []
        took_s = now_s - self._begun_s
        if self.phase is MigrationPhase.FINISHING:
            self._enter(MigrationPhase.READY, now_s)
            return [self._note(f"last KV rows sent in {took_s * 1e3:.0f} ms")]
        self.copied_s = took_s
        return [self._note(f"copied {megabytes(self.copied_bytes, 1)} in {took_s:.2f} s")]

    def _requests_held(self, message: RequestsHeld, now_s: float) -> list[Effect]:
        self.held = {request.request: request.valid_tokens for request in message.requests}
        note = self._note(f"{len(self.held)} requests held after {(now_s - self._begun_s) * 1e3:.0f} ms")
        if not self._targets:
            if not self.migration.copies:
                self.held.clear()
            self._enter(MigrationPhase.READY, now_s)
            return [note]
        self._enter(MigrationPhase.FINISHING, now_s)
        running = self.running
        return [
            note,
            *(
                command(
                    running.nodes[stage],
                    FinishKv(
                        pipeline=running.pipeline, epoch=running.epoch, stage=stage, requests=message.requests
                    ),
                )
                for stage in self._targets
            ),
        ]  # fmt: skip

    def check(self, is_usable: Callable[[str, int], bool], now_s: float, *, in_prefill: bool) -> list[Effect]:
        """Go on where time or the requests allow it, or give up.

        Args:
            is_usable: is this start of a node there?
            now_s: the clock.
            in_prefill: does a request still wait for its ring's first token? Then it is not a good moment to hold.
        """
        if self.phase is MigrationPhase.FAILED:
            return []
        for node, incarnation in self.plan.incarnations.items():
            if not is_usable(node, incarnation):
                return self.fail(node, "it went away")
        if self.phase is MigrationPhase.COPYING and not self._missing:
            # The bound counts from the moment that all have caught up.
            if in_prefill and now_s < self._begun_s + self.copied_s + self._timing.move_prefill_s:
                return []
            return self._hold(now_s)
        if now_s < self._due_s():
            return []
        late = self.running.nodes[min(self._missing)]
        return self.fail(late, f"nothing heard of it after {now_s - self._begun_s:.1f} s")

    def _hold(self, now_s: float) -> list[Effect]:
        self._enter(MigrationPhase.HOLDING, now_s)
        self._held_s = now_s
        hold = HoldRequests(
            pipeline=self.running.pipeline,
            epoch=self.running.epoch,
            limit_s=self._timing.move_hold_s + self._timing.move_finish_s + _MARGIN_S,
        )
        return [command(self.running.nodes[0], hold)]

    def _enter(self, phase: MigrationPhase, now_s: float) -> None:
        self.phase, self._begun_s = phase, now_s
        self._missing = {0} if phase is MigrationPhase.HOLDING else set()
        if phase in (MigrationPhase.COPYING, MigrationPhase.FINISHING):
            self._missing = set(self._targets)

    def _due_s(self) -> float:
        limits = {
            MigrationPhase.COPYING: self._timing.move_copy_s,
            MigrationPhase.HOLDING: self._timing.move_hold_s,
            MigrationPhase.FINISHING: self._timing.move_finish_s,
        }
        return self._begun_s + limits.get(self.phase, math.inf)

    def next_deadline_s(self) -> float:
        """When ``check`` next has something to do by time alone."""
        if self.phase is MigrationPhase.COPYING and not self._missing:
            return self._begun_s + self.copied_s + self._timing.move_prefill_s
        return self._due_s()

    def fail(self, node: str, reason: str) -> list[Effect]:
        """Give the move up: the working ring goes on, the new one is forgotten."""
        self.failed_node, self.reason = node, reason
        note = f"given up while {self.phase.value}: epoch {self.running.epoch} goes on"
        self._enter(MigrationPhase.FAILED, math.inf)
        go_on = GoOn(pipeline=self.running.pipeline, epoch=self.running.epoch)
        nodes = dict.fromkeys(self.running.nodes[stage] for stage in (0, *self._targets))
        return [
            self._note(note, warning=True),
            *(command(name, go_on) for name in nodes),
            *self.rollout.fail(node, reason),
        ]

    def view(self) -> MoveUnderWay:
        """What ``linguabus status`` shows."""
        return MoveUnderWay(
            phase=self.phase.value,
            from_epoch=str(self.running.epoch),
            to_epoch=str(self.plan.epoch),
            units=moved_units(self.running.ring, self.plan.ring),
            mode=self.migration.mode,
            expected_bytes=self.migration.copy_bytes if self.migration.copies else 0,
            copied_bytes=self.copied_bytes,
            waits_for=tuple(sorted({self.running.nodes[stage] for stage in self._missing})),
        )

    def _note(self, text: str, *, warning: bool = False) -> Note:
        return Note(f"move to epoch {self.plan.epoch}: {text}", warning=warning)


def _targets(running: DeployedPlan, plan: DeployedPlan) -> dict[int, tuple[KvTarget, ...]]:
    old, new = running.ring, plan.ring
    found: dict[int, tuple[KvTarget, ...]] = {}
    for copy in kv_copies(old, new, running.model.manifest.num_units):
        target = KvTarget(stage=copy.target, node=new[copy.target].node, start=copy.start, stop=copy.stop)
        found[copy.source] = (*found.get(copy.source, ()), target)
    return found


def moved_units(old: Sequence[StageRef], new: Sequence[StageRef]) -> str:
    """Which units change their node, for people: "units [8, 12) from a to b"."""
    moves = [
        f"[{moved.start}, {moved.stop}) from {before.node} to {after.node}"
        for before in old
        for after in new
        if before.node != after.node and (moved := overlap(before, after))
    ]
    return f"units {', '.join(moves)}" if moves else "no units"
