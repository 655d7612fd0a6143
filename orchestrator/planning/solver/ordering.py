"""Good plans for any chain on a larger fleet: the best partition for a given device order, and a search over orders.

For one order (devices may be skipped) the best contiguous partition is a small dynamic programme, so only the order is
guessed: a few natural ones, improved by a fixed number of seeded exchanges. The answer is feasible and checked; how far
it may be from the optimum is measured by `milp.relaxed_bound_s`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator.planning.cost import pass_s
from orchestrator.planning.problem import Objective, Problem, Stage
from orchestrator.planning.solver.intervals import Arcs, Floats, Intervals, finite_values
from orchestrator.planning.solver.search import RingEngine, RingPlan, first_that

EXCHANGES = 150
Order = tuple[int, ...]


@dataclass(frozen=True)
class OrderedEngine(RingEngine):
    """A ring engine that knows the best partition for each of a few device orders, and no more."""

    problem: Problem
    intervals: Intervals
    orders: tuple[Order, ...]

    @cached_property
    def _limits(self) -> list[float]:
        ends = (arcs.load_s[:, list(self._tails)] for arcs in self._arcs.values())
        return finite_values((self.intervals.load_s, *ends))

    @cached_property
    def _arcs(self) -> dict[int, Arcs]:
        return {index: self.intervals.arcs(index) for index in sorted({order[0] for order in self.orders})}

    @cached_property
    def _tails(self) -> tuple[int, ...]:
        """Where the last stage of a node with both ends may begin: at the head, and at what pins mark."""
        units = self.problem.unit_count
        marks = {edge for pin in self.problem.constraints.pins for edge in (pin.start, pin.stop)}
        return tuple(sorted({units - 1} | {edge for edge in marks if 1 < edge < units}))

    def limits_s(self) -> list[float]:
        return self._limits

    def cheapest_ring(self, limit_s: float) -> RingPlan | None:
        """The cheapest plan over the known orders within the limit."""
        within = self.intervals.within(limit_s)
        plans = [plan for order in self.orders for plan in self._of_order(order, within, limit_s)]
        return min(plans, key=lambda plan: plan.value_s, default=None)

    def _of_order(self, order: Order, within: Floats, limit_s: float) -> list[RingPlan]:
        units = self.problem.unit_count
        start = np.full(units + 1, math.inf)
        start[0] = 0.0
        plans = [self._partition(order, within, start, units, None)]
        arcs = self._arcs[order[0]]
        for tail in self._tails if self.problem.both_ends_in_ring else ():
            first = arcs.within(limit_s)[:, tail]
            plans.append(self._partition(order[1:], within, first, tail, order[0]))
        return [plan for plan in plans if plan is not None]

    def _partition(self, order: Order, within: Floats, start: Floats, end: int, holder: int | None) -> RingPlan | None:
        """The cheapest split of units up to `end` over the order; each device takes an interval or is skipped."""
        best, choices = start, []
        for index in order:
            totals = best[:, None] + within[index]
            source = totals.argmin(axis=0)
            value = totals[source, np.arange(len(best))]
            better = value < best
            choices.append(np.where(better, source, -1))
            best = np.where(better, value, best)
        if best[end] == math.inf:
            return None
        covered, stages = end, []
        for index, choice in zip(reversed(order), reversed(choices), strict=True):
            if choice[covered] >= 0:
                stages.append(Stage(self.problem.eligible[index].name, int(choice[covered]), covered))
                covered = int(choice[covered])
        if holder is not None:
            name = self.problem.eligible[holder].name
            stages = [Stage(name, end, self.problem.unit_count), *stages, Stage(name, 0, covered)]
        return RingPlan(float(best[end]), tuple(reversed(stages)))


def natural_engine(problem: Problem) -> OrderedEngine:
    """An engine with the natural orders only: quick, for a first look."""
    return OrderedEngine(problem, Intervals(problem), tuple(_natural_orders(problem)))


def improve_orders(problem: Problem) -> OrderedEngine:
    """An engine with good orders: natural ones, the best of them improved by seeded exchanges."""
    intervals = Intervals(problem)
    naturals = _natural_orders(problem)
    scored = sorted((_score(problem, intervals, order), order) for order in naturals)
    best_score, best = scored[0]
    draw = random.Random(0)
    for _ in range(EXCHANGES if len(best) > 1 else 0):
        trial = list(best)
        trial.insert(draw.randrange(len(trial)), trial.pop(draw.randrange(len(trial))))
        score = _score(problem, intervals, tuple(trial), best_score)
        if score < best_score:
            best_score, best = score, tuple(trial)
    return OrderedEngine(problem, intervals, (best, *(order for _, order in scored[:2] if order != best)))


def _natural_orders(problem: Problem) -> list[Order]:
    devices = problem.eligible
    speed = [pass_s(problem, device.decode_s) for device in devices]
    fleet = tuple(range(len(devices)))
    place = problem.incumbent_place
    orders = [
        fleet,
        tuple(sorted(fleet, key=lambda index: speed[index])),
        tuple(sorted(fleet, key=lambda index: -devices[index].memory_bytes)),
        tuple(sorted(fleet, key=lambda index: place.get(devices[index].name, len(place)))),
    ]
    return list(dict.fromkeys(_with_pins(problem, order) for order in orders))


def _with_pins(problem: Problem, order: Order) -> Order:
    """The order with pinned devices among themselves as in the chain, and the holder of a pinned end outermost."""
    first_unit: dict[str, int] = {}
    for pin in sorted(problem.constraints.pins, key=lambda pin: pin.start, reverse=True):
        first_unit[pin.node] = pin.start
    last_owners = {pin.node for pin in problem.constraints.pins if pin.stop == problem.unit_count}
    start = {index: first_unit.get(problem.eligible[index].name) for index in order}
    queue = iter(sorted((i for i in order if start[i] is not None), key=lambda i: start[i] or 0))
    merged = [index if start[index] is None else next(queue) for index in order]
    last = {index for index in order if problem.eligible[index].name in last_owners and start[index] != 0}
    return tuple(sorted(merged, key=lambda index: (index in last, start[index] != 0)))


def _score(problem: Problem, intervals: Intervals, order: Order, to_beat: float = math.inf) -> float:
    """What the objective makes of the best partition of one order; infinite when nothing fits or beats `to_beat`."""
    engine = OrderedEngine(problem, intervals, (order,))
    if problem.objective is not Objective.THROUGHPUT:
        ring = engine.cheapest_ring(math.inf)
        return math.inf if ring is None else ring.value_s
    limits = [limit for limit in engine.limits_s() if limit < to_beat]
    if not limits or not engine.fits(limits[-1]):
        return math.inf
    return limits[first_that(limits, engine.fits)]
