"""Turns the four objectives into questions of one kind: the cheapest plan under a bottleneck limit T.

For a ring the least price L(T) falls, step by step, as T rises. So each objective is a bisection over the values
a bottleneck can have:

* latency     T = infinity, then the least T whose L(T) is still the optimum;
* balanced    the least T with L(T) <= (1 + tolerance) x optimum;
* throughput  the least T that fits, or with s streams the least max(T, L(T) / s);
* paper       T = infinity, with LinguaLinked's prices.

Single-device plans make no hops and are compared at the end.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from orchestrator.planning.cost import check, objective_value, predict
from orchestrator.planning.problem import Objective, Problem, Stage
from orchestrator.planning.solution import Prediction

TIE = 1e-9
"""Relative difference below which two plans count as equal: above float noise, far below any measurement."""


_Value = TypeVar("_Value")


@dataclass(frozen=True)
class RingPlan:
    """A plan found under a limit and its price in the objective's seconds."""

    value_s: float
    stages: tuple[Stage, ...]


class RingEngine(Protocol):
    """Exact answers about rings for one problem."""

    def limits_s(self) -> Sequence[float]:
        """Values the bottleneck can have, ascending."""

    def fits(self, limit_s: float) -> bool:
        """Whether any plan keeps every load within the limit."""
        return self.cheapest_ring(limit_s) is not None

    def cheapest_ring(self, limit_s: float) -> RingPlan | None:
        """The plan of least price within the limit."""


@dataclass(frozen=True)
class Candidate:
    """A complete plan with its figures."""

    stages: tuple[Stage, ...]
    predicted: Prediction
    value_s: float
    """What the objective minimises."""
    price_s: float
    """What the ring engine sums: seconds per token, or LinguaLinked's."""

    def worth_s(self, objective: Objective) -> float:
        """What plans are compared by for people: the objective, but a balanced plan is above all a quick one."""
        return self.price_s if objective is Objective.BALANCED else self.value_s


@dataclass(frozen=True)
class Claim:
    """No ring whose loads stay within `limit_s` has a price at or below `price_s` (in the engine's seconds)."""

    limit_s: float
    price_s: float


@dataclass(frozen=True)
class Found:
    """The best plan and the claims that, all together, make it the best."""

    best: Candidate
    claims: tuple[Claim, ...]


def candidate(problem: Problem, stages: tuple[Stage, ...]) -> Candidate:
    predicted = predict(problem, stages)
    value = objective_value(problem, predicted, stages)
    price = value if problem.objective is Objective.PAPER else predicted.decode_s
    return Candidate(stages, predicted, value, price)


def single_plans(problem: Problem) -> list[Candidate]:
    """Every device that may and can hold the whole chain, as a plan of its own."""
    whole = [problem.alone(device) for device in problem.eligible]
    return [candidate(problem, stages) for stages in whole if not check(problem, stages)]


def search(problem: Problem, engine: RingEngine) -> Found | None:
    """The best plan of the problem's objective; None when none exists."""
    singles = single_plans(problem)
    if problem.objective is Objective.THROUGHPUT:
        return _most_throughput(problem, engine, singles)
    return _least_price(problem, engine, singles)


def _least_price(problem: Problem, engine: RingEngine, singles: list[Candidate]) -> Found | None:
    ring = engine.cheapest_ring(math.inf)
    prices = [plan.price_s for plan in singles] + ([ring.value_s] if ring else [])
    if not prices:
        return None
    least = min(prices)
    tolerance = problem.balanced_tolerance if problem.objective is Objective.BALANCED else TIE
    allowed = least * (1 + max(tolerance, TIE))
    plans = [plan for plan in singles if plan.price_s <= allowed]
    limit, tighter = math.inf, None
    if ring is not None and ring.value_s <= allowed:
        if problem.objective is not Objective.PAPER:
            limits = engine.limits_s()
            place = first_that(limits, lambda value: _price_under(engine, value) <= allowed)
            limit, tighter = _around(limits, limits[place])
            ring = engine.cheapest_ring(limit)
        if ring is not None:
            plans.append(candidate(problem, ring.stages))
    if problem.objective is Objective.BALANCED:
        best = _least(plans, lambda plan: (plan.predicted.bottleneck_s, plan.price_s))
    else:
        best = _least(plans, lambda plan: (plan.price_s, plan.predicted.bottleneck_s))
    if len(best.predicted.nodes) == 1 and problem.objective is not Objective.PAPER:
        limit, tighter = _around(engine.limits_s(), best.predicted.bottleneck_s)
    claims = [Claim(math.inf, least * (1 - TIE))]
    if tighter is not None:
        claims.append(Claim(tighter, allowed))
    if problem.objective is Objective.BALANCED:
        claims.append(Claim(limit, best.price_s * (1 - TIE)))
    return Found(best, tuple(claims))


def _most_throughput(problem: Problem, engine: RingEngine, singles: list[Candidate]) -> Found | None:
    limits = engine.limits_s()
    plans = list(singles)
    streams = problem.streams
    if limits and engine.fits(limits[-1]):
        if streams is None:
            place = first_that(limits, engine.fits)
        else:
            place = first_that(limits, lambda value: _price_under(engine, value) <= streams * value)
        limit, tighter = _around(limits, limits[place])
        for near in (limit, tighter):
            ring = None if near is None else engine.cheapest_ring(near)
            if ring is not None:
                plans.append(candidate(problem, ring.stages))
    if not plans:
        return None
    best = _least(plans, lambda plan: (plan.value_s, plan.price_s))
    limit, tighter = _around(limits, best.value_s)
    allowed = math.inf if streams is None else streams * best.value_s * (1 - TIE)
    claims = [Claim(limit, best.price_s * (1 - TIE))]
    if tighter is not None:
        claims.append(Claim(tighter, allowed))
    return Found(best, tuple(claims))


def _price_under(engine: RingEngine, limit_s: float) -> float:
    ring = engine.cheapest_ring(limit_s)
    return math.inf if ring is None else ring.value_s


def first_that(values: Sequence[_Value], holds: Callable[[_Value], bool]) -> int:
    """Index of the first value for which a monotone condition holds; it is taken to hold for the last."""
    return bisect.bisect_left(values, True, hi=len(values) - 1, key=holds)


def _around(limits: Sequence[float], value: float) -> tuple[float, float | None]:
    """The largest limit not above `value` (give or take a tie), and the next one clearly below it."""
    within = [limit for limit in limits if limit <= value * (1 + TIE)]
    below = [limit for limit in within if limit < value * (1 - TIE)]
    return (within[-1] if within else value), (below[-1] if below else None)


def _least(plans: list[Candidate], key: Callable[[Candidate], tuple[float, float]]) -> Candidate:
    """The plan of least key, where figures within `TIE` are equal and the earlier plan (fewer devices) wins."""
    best = plans[0]
    for plan in plans[1:]:
        mine, theirs = key(plan), key(best)
        for one, other in zip(mine, theirs, strict=True):
            if abs(one - other) > TIE * max(abs(one), abs(other)):
                if one < other:
                    best = plan
                break
    return best
