"""When a pipeline's layers should move, and why they stay (pure).

Readings come in with heartbeats; `speed_estimate` makes of them how slow each node is believed to be. Once these
beliefs are away from those that the last decision was made with, ``consider`` says that the planner should be asked,
with the nodes as they are believed to be. ``judge`` decides about the planner's answer: of the best plan and of plans
next to the running one it takes the one that saves most time over the expected work, less what the move costs. It stays
with the running plan where no other saves any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.balancing.decision_log import Decision, DecisionLog, Stages, Verdict
from orchestrator.balancing.speed_estimate import ObservationSettings, Reading, SpeedEstimate
from orchestrator.planning.cost import check
from orchestrator.planning.gain import LEAST_GAIN, NOTHING_BETTER, gain
from orchestrator.planning.moves.nearby import nearby, value_s
from orchestrator.planning.problem import Objective, Problem, Stage
from schemas.back_off import back_off_s


@dataclass(frozen=True, kw_only=True)
class BalanceSettings:
    """What makes a move worth it."""

    min_gain: float = LEAST_GAIN
    """Least share of the time per token that a move has to save."""
    gain_noises: float = 3.0
    """It must also be so many standard deviations of what is believed of a node."""
    ask_change: float = 0.07
    """The planner is asked once a belief has changed by this share."""
    safety: float = 1.5
    """A move must save this many times what it costs."""
    cool_down_s: float = 10.0
    """No move for so long after a move, and twice as long for each beyond ``free_moves`` shortly before,"""
    shortly_s: float = 300.0
    """within this time."""
    free_moves: int = 3
    failed_cool_down_s: float = 30.0
    """No move for so long after one that failed; twice as long for each further one."""
    again_s: float = 30.0
    """A move that did not pay for itself is thought of again after this time: there may be more work."""
    horizon_s: float = 300.0
    """Work that arrives within this time counts as expected."""
    observation: ObservationSettings = ObservationSettings()


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The planner's answer beside the plan that runs. ``cost_s`` tells what a move from that plan to another loses."""

    problem: Problem
    """With the nodes as they are believed to be."""
    running: Stages
    found: Stages
    requests: int
    """How many are open."""
    remaining_tokens: int
    """Tokens that are still to come for them."""
    cost_s: Callable[[Stages], float]


class Balancer:
    """Decides when one pipeline's layers should move."""

    def __init__(self, settings: BalanceSettings | None = None, history: DecisionLog | None = None) -> None:
        self.settings = settings or BalanceSettings()
        self.history = DecisionLog() if history is None else history
        self._nodes: dict[str, SpeedEstimate] = {}
        self._price: dict[str, float] = {}
        """What times of a node count as, because of its battery or its heat."""
        self._judged: dict[str, float] = {}
        """What the last decision was made with: logarithms of slowness times price."""
        self._not_before_s = -math.inf
        self._again_s = math.inf
        self._failures = 0
        self._moved_s: list[float] = []
        """The newest moves."""
        self._arriving = _Arrivals(self.settings.horizon_s)

    # --- what is seen -----------------------------------------------------------------------------------------

    def know(self, node: str, slowness: float) -> None:
        """Note what is known of a node from earlier, if the node is new here."""
        if node not in self._nodes:
            self._nodes[node] = SpeedEstimate(self.settings.observation, slowness)
            self._judged[node] = self._counts_as(node)

    def observe(self, node: str, reading: Reading, now_s: float) -> bool:
        """Take in a node's reading; says whether a change of the node is believed from now on."""
        self.know(node, 1.0)
        return self._nodes[node].see(reading, now_s)

    def price(self, node: str, factor: float) -> None:
        """Set the factor by which a node's times count from now on, because of its battery or its heat."""
        self._price[node] = factor

    def _counts_as(self, node: str) -> float:
        return self._nodes[node].level + math.log(self._price.get(node, 1.0))

    def forget(self, node: str) -> None:
        """Forget a node that measured itself anew, or is gone."""
        self._nodes.pop(node, None)
        self._judged.pop(node, None)

    def asked(self, tokens: int, now_s: float) -> None:
        """A request for so many tokens has arrived."""
        self._arriving.add(tokens, now_s)

    def slowness(self) -> dict[str, float]:
        """How slow nodes are believed to be: their times over those they measured. Unknown nodes are missing."""
        return {name: node.slowness for name, node in self._nodes.items()}

    def doubts(self) -> dict[str, str]:
        """Nodes whose times are not believed, and why."""
        return {name: node.doubt for name, node in self._nodes.items() if node.doubt}

    # --- decisions --------------------------------------------------------------------------------------------

    def consider(self, now_s: float) -> Decision:
        """Decide whether the planner should be asked."""
        return self._remember(self._consider(now_s), now_s)

    def _consider(self, now_s: float) -> Decision:
        changed = self._changed()
        if not changed and now_s < self._again_s:
            doubts = "; ".join(f"{name} {why}" for name, why in sorted(self.doubts().items()))
            beside = f" (not believed: {doubts})" if doubts else ""
            return Decision(verdict=Verdict.STAY, reason=f"all nodes are as quick as the plan counts on{beside}")
        if now_s < self._not_before_s:
            return Decision(verdict=Verdict.STAY, reason=f"cooling down after the last move; {changed or 'more work'}")
        return Decision(verdict=Verdict.ASK, reason=changed or "there may be more work now")

    def _changed(self) -> str:
        """The nodes believed to be away from what the last decision was made with, in words; empty for none."""
        found = []
        for name, node in sorted(self._nodes.items()):
            away = self._counts_as(name) - self._judged[name]
            least = max(math.log1p(self.settings.ask_change), self.settings.gain_noises * node.uncertainty)
            if abs(away) > least:
                found.append(f"{name} counts as {math.exp(away):.1f} times as slow as before")
        return ", ".join(found)

    def judge(self, proposal: Proposal, now_s: float) -> Decision:
        """Decide whether to move or to stay, now that the planner has answered."""
        self._judged = {name: self._counts_as(name) for name in self._nodes}
        self._again_s = math.inf
        return self._remember(self._judge(proposal, now_s), now_s)

    def _judge(self, asked: Proposal, now_s: float) -> Decision:
        wrong = check(asked.problem, asked.running)
        if wrong:
            return Decision(
                verdict=Verdict.MOVE, reason=f"the running plan may not go on: {wrong[0]}", stages=asked.found
            )
        best = self._best(asked, now_s)
        if best is None:
            return Decision(verdict=Verdict.STAY, reason=NOTHING_BETTER)
        needed = self._needed_gain(asked.running)
        figures = f"{best.gain:.0%} less time per token saves {best.saved_s:.1f} s, moving costs {best.cost_s:.1f} s"
        if best.gain < needed:
            return replace(best, reason=f"a gain of {best.gain:.1%} is below the {needed:.1%} that count")
        if math.isinf(best.cost_s):
            return replace(best, reason=f"open requests can't be moved to a plan that gains {best.gain:.0%}")
        if best.saved_s < self.settings.safety * best.cost_s:
            self._again_s = now_s + self.settings.again_s
            return replace(best, reason=f"it does not pay: {figures}")
        if now_s < self._not_before_s and asked.requests:
            self._again_s = self._not_before_s
            return replace(best, reason=f"cooling down after the last move; {figures}")
        return replace(best, verdict=Verdict.MOVE, reason=figures)

    def _best(self, asked: Proposal, now_s: float) -> Decision | None:
        """The plan with the largest net gain, its verdict left open; None when none is better than the running one."""
        problem = asked.problem.priced
        now_value_s = value_s(problem, asked.running)
        # Streams share the ring's time only where the objective is one stream's.
        at_once = asked.requests if problem.objective in (Objective.LATENCY, Objective.PAPER) else 1
        tokens = asked.remaining_tokens + self._arriving.expected(now_s)
        work_s = tokens * now_value_s / max(1, at_once)
        best, best_key = None, (False, 0.0, 0.0)
        needed = self._needed_gain(asked.running)
        for stages in (asked.found, *nearby(problem, asked.running)):
            saved = gain(now_value_s, value_s(problem, stages))
            if stages == asked.running or saved <= 0:
                continue
            cost_s = asked.cost_s(stages)
            key = (saved >= needed, work_s * saved - self.settings.safety * cost_s, saved)
            if best is None or key > best_key:
                best_key = key
                best = Decision(
                    verdict=Verdict.STAY, reason="", stages=stages, gain=saved, saved_s=work_s * saved, cost_s=cost_s
                )
        return best

    def _needed_gain(self, running: Sequence[Stage]) -> float:
        """The least gain that counts: more than noise could make of the running plan."""
        known = [self._nodes[stage.node].uncertainty for stage in running if stage.node in self._nodes]
        return max(self.settings.min_gain, 1 - math.exp(-self.settings.gain_noises * max(known, default=0.0)))

    # --- what came of it --------------------------------------------------------------------------------------

    def moved(self, now_s: float) -> None:
        """The plan that was decided upon has taken over."""
        self._moved_s = [at_s for at_s in self._moved_s if now_s - at_s < self.settings.shortly_s]
        beyond = max(0, len(self._moved_s) - self.settings.free_moves)
        self._not_before_s = now_s + back_off_s(self.settings.cool_down_s, beyond)
        self._moved_s.append(now_s)
        self._failures = 0
        self.begin_again()

    def failed(self, now_s: float) -> None:
        """A move was rolled back."""
        self._not_before_s = now_s + back_off_s(self.settings.failed_cool_down_s, self._failures)
        self._failures = min(self._failures + 1, 6)
        self._again_s = self._not_before_s
        self.begin_again()

    def begin_again(self) -> None:
        """Forget all readings, which are of other runs: another plan is in force, or the same one once more."""
        for node in self._nodes.values():
            node.forget_readings()

    def why(self) -> list[dict[str, Any]]:
        """The decisions, oldest first; JSON-able."""
        return self.history.as_dicts()

    def _remember(self, decision: Decision, now_s: float) -> Decision:
        self.history.add(decision, now_s)
        return decision


class _Arrivals:
    """Smoothed rate of tokens asked for. The newest request does not count: alone it says nothing of others to come."""

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._tokens = 0.0
        """Each counted less by the time since."""
        self._at_s = 0.0
        self._newest = 0

    def add(self, tokens: int, now_s: float) -> None:
        self._tokens = self.expected(now_s) + self._newest
        self._newest, self._at_s = tokens, now_s

    def expected(self, now_s: float) -> float:
        """Tokens that will be asked for within the horizon, if requests go on to come as they do now."""
        return self._tokens * math.exp(-(now_s - self._at_s) / self._horizon_s)


def with_slowness(problem: Problem, slowness: dict[str, float]) -> Problem:
    """The problem with devices as slow as they are believed to be."""
    devices = (device.slowed(slowness.get(device.name, 1.0)) for device in problem.devices)
    return replace(problem, devices=tuple(devices))
