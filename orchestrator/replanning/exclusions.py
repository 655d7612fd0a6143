"""Nodes that are left out of plans after a failure, and for how long (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from schemas.back_off import back_off_s
from schemas.messages import LoadFailureCode, RequestFailureCode

FailureCode = LoadFailureCode | RequestFailureCode | Literal["crashed"]
"""Why a node is left out. crashed: one start after the other ended while it loaded a segment."""
STEP_FAILURES: frozenset[RequestFailureCode] = frozenset({"not_finite", "bad_input", "cannot_run", "internal"})
"""Failures after which another ring may go on with a request."""
AT_WORK: frozenset[FailureCode] = frozenset({"wrong_answers", "not_finite", "bad_input", "cannot_run"})
"""Failures of nodes whose ring was at work."""
STAYING: frozenset[FailureCode] = frozenset({"wrong_answers", "unusable"})
"""Failures that waiting does not mend."""
TRIES = 3
"""So many of them in a row, and nothing but another start of the node or an operator ends it."""
_MAX_GROWTH = 10


@dataclass
class _Exclusion:
    incarnation: int
    reason: str
    code: FailureCode
    times: int
    alike: int
    """Times in a row with this code."""
    until_s: float
    in_force: bool = True

    @property
    def stays(self) -> bool:
        return self.in_force and self.until_s == math.inf


class Exclusions:
    """Nodes that are left out, by name; another start of a node is given another chance at once, unless it is starts
    that end while they load."""

    def __init__(self, *, base_s: float) -> None:
        self._base_s = base_s
        self._of: dict[str, _Exclusion] = {}

    def add(self, node: str, incarnation: int, reason: str, code: FailureCode, now_s: float) -> None:
        """Leave the node out, longer with each time; for good after `TRIES` failures of a kind that stays."""
        known = self._of.get(node)
        before = known if known and known.incarnation == incarnation else None
        times = before.times + 1 if before else 1
        alike = before.alike + 1 if before and before.code == code else 1
        until_s = now_s + back_off_s(self._base_s, times - 1, _MAX_GROWTH * self._base_s)
        if code in STAYING and alike >= TRIES:
            until_s = math.inf
        self._of[node] = _Exclusion(incarnation, reason, code, times, alike, until_s)

    def vanished(self, node: str, incarnation: int, now_s: float) -> None:
        """Note that a node went away while it loaded a segment. If it comes back as it was, only its link was cut; from
        the second start on that ends so, the next one is left out."""
        known = self._of.get(node)
        before = known if known and known.code == "crashed" and known.incarnation != incarnation else None
        times = before.times + 1 if before else 1
        reason = f"its process ended {times} times while it loaded a segment"
        until_s = now_s + back_off_s(self._base_s, max(0, times - 2), _MAX_GROWTH * self._base_s)
        self._of[node] = _Exclusion(incarnation, reason, "crashed", times, times, until_s, in_force=times > 1)

    def excludes(self, node: str, incarnation: int) -> bool:
        """Is this start of the node left out now?"""
        known = self._of.get(node)
        if known is None or not known.in_force:
            return False
        return (known.incarnation == incarnation) is not (known.code == "crashed")

    def is_left_out(self, node: str) -> bool:
        """Is the node left out, or its next start?"""
        return node in self._of and self._of[node].in_force

    def stays_out(self, node: str, incarnation: int) -> bool:
        """Is it left out for as long as it runs, unless an operator says otherwise?"""
        return self.excludes(node, incarnation) and self._of[node].stays

    def may_be_models_fault(self, node: str) -> bool:
        """Is the node left out for a result that the model's weights may be the cause of?

        Its known answers were right: it would have been left out for these.
        """
        return self._of[node].code == "not_finite"

    def reason(self, node: str) -> str:
        """Why the node is, or last was, left out, and what ends that."""
        known = self._of[node]
        if not known.stays:
            return known.reason
        ends = f"it stays left out until it starts again or you say: linguabus node drain {node} --undo"
        return f"{known.reason} ({known.alike} times; {ends})"

    def forgive(self, node: str) -> bool:
        """Forget a node's failures, as an operator wishes; true when it was left out."""
        known = self._of.pop(node, None)
        return known is not None and known.in_force

    def worked(self, nodes: Iterable[str]) -> None:
        """Count the failures of nodes anew that have come to hold a part of a plan.

        Wrong answers are counted on: memory that flips bits does so now and then.
        """
        for node in nodes:
            known = self._of.get(node)
            if known and known.code == "crashed":
                del self._of[node]
            elif known and known.code != "wrong_answers":
                known.alike = 0

    def forget_unusable(self) -> None:
        """Forget failures but for wrong answers: another model is to be served, which they may be able to run."""
        self._of = {node: known for node, known in self._of.items() if known.code == "wrong_answers"}

    def expire(self, now_s: float) -> bool:
        """End exclusions that are over; true when a node may be planned with again."""
        over = [known for known in self._of.values() if known.in_force and known.until_s <= now_s]
        for known in over:
            known.in_force = False  # kept, so that the next failure counts as one more
        return bool(over)

    def next_deadline_s(self) -> float:
        """When ``expire`` next has something to do."""
        return min((known.until_s for known in self._of.values() if known.in_force), default=math.inf)
