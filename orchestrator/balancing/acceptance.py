"""Acceptance: is a solution worth replacing a plan that works? (pure)

This is the seam between making plans and deciding about them. A `Replanner` asks a judge about each solution that was
found beside a working plan; another judge may be put in the place of the usual one:

    replanner.use_judge(lambda query: AcceptanceDecision(Acceptance.STAY, "..."))

The answer ``WHEN_IDLE`` lets the replanner ask the planner again once nobody waits for an answer.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.deployment.open_requests import OpenWork
from orchestrator.deployment.plan import DeployedPlan, Solving
from orchestrator.planning.gain import LEAST_GAIN, NOTHING_BETTER, gain
from orchestrator.planning.moves.kv_migration import Migration
from orchestrator.planning.solution import Solution


@dataclass(frozen=True)
class AcceptanceQuery:
    """A solution beside a working plan. ``migration`` is None when open requests can't be moved to it live."""

    running: DeployedPlan
    found: Solution
    solving: Solving
    work: OpenWork
    migration: Migration | None
    now_s: float = 0.0


class Acceptance(enum.Enum):
    """What to do with a solution."""

    NOW = "now"
    WHEN_IDLE = "when idle"
    STAY = "stay"


@dataclass(frozen=True)
class AcceptanceDecision:
    """The answer to a query, and the reason for people."""

    answer: Acceptance
    reason: str
    instead: Solution | None = None
    """Bring this into force rather than what was found."""
    recorded: bool = False
    """Whether the decision has been recorded."""


Judge = Callable[[AcceptanceQuery], AcceptanceDecision]
_STAYS = AcceptanceDecision(Acceptance.STAY, NOTHING_BETTER)


def settled(question: AcceptanceQuery) -> AcceptanceDecision | None:
    """The verdict where there is nothing to weigh: for another model or other KV caches, for a draft
    model that the running plan does not have, and when somebody asked."""
    running, solving = question.running, question.solving
    caches = (solving.context_tokens, solving.problem.slots)
    if solving.model is not running.model or caches != (running.context_tokens, running.slots):
        return AcceptanceDecision(Acceptance.NOW, "another model or context")
    found, draft = question.found, solving.draft_of(question.found)
    if draft and draft != running.draft:
        return AcceptanceDecision(Acceptance.NOW, f"there is room for the draft model {draft}")
    if not solving.forced:
        return None
    stays = (found.stages, draft) == (running.solution.stages, running.draft)
    return _STAYS if stays else AcceptanceDecision(Acceptance.NOW, "asked for")


def judge(question: AcceptanceQuery) -> AcceptanceDecision:
    """The usual judge: accept another plan for a gain above `LEAST_GAIN`, or because somebody asked for it.

    Open requests must save more time by the new plan than they lose to the move; requests that can't be moved live are
    not disturbed unless it was asked for.
    """
    if verdict := settled(question):
        return verdict
    running, found = question.running, question.found
    if found.stages == running.solution.stages:
        return _STAYS
    if found.objective is running.solution.objective:
        saved = gain(running.solution.objective_value, found.objective_value)
        if saved <= LEAST_GAIN:
            return AcceptanceDecision(Acceptance.STAY, f"a gain of {saved:.1%} is not worth it")
    else:
        saved = 0.0
    if not question.work.requests:
        return AcceptanceDecision(Acceptance.NOW, f"a gain of {saved:.1%}")
    if question.migration is None:
        return AcceptanceDecision(Acceptance.WHEN_IDLE, "open requests can't be moved live")
    saved_s = (running.solution.predicted.decode_s - found.predicted.decode_s) * question.work.remaining_tokens
    if saved_s <= question.migration.lost_s:
        reason = f"open requests would save {saved_s:.2f} s and lose {question.migration.lost_s:.2f} s"
        return AcceptanceDecision(Acceptance.WHEN_IDLE, reason)
    return AcceptanceDecision(Acceptance.NOW, f"a gain of {saved:.1%}, {saved_s:.2f} s for the open requests")
