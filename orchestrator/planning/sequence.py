"""Exact plans for any chain on a small fleet: a dynamic programme over sets of devices.

State: which devices are used (equal devices are counted, not told apart) and how many units are covered from the
front. F[S, j] = min over d not in S, i < j of F[S - d, i] + price[d, i, j]. That is every order of every subset of
devices with every partition, in O(2^D U^2 D) steps instead of D! of them. Rings whose first node also holds the
head are a second start of the same programme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.intervals import Floats, Intervals
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.search import RingPlan

WORK_LIMIT = 4 * 10**7
"""Most array elements one solve may touch; about a third of a second."""

State = tuple[int, ...]
"""Devices used of each class."""


@dataclass(frozen=True)
class Layer:
    """All states of K devices. `best` (states, U+1); `choice` the class and length of the last interval."""

    states: tuple[State, ...]
    best: Floats
    choice: NDArray[np.int32]


@dataclass(frozen=True)
class SequenceEngine:
    """The exact ring engine of any chain; `affordable` says whether the fleet is small enough."""

    problem: Problem

    @cached_property
    def intervals(self) -> Intervals:
        return Intervals(self.problem)

    @cached_property
    def classes(self) -> list[list[int]]:
        """Indices of devices that differ only in name; pinned and capped ones stay alone."""
        special = {pin.node for pin in self.problem.constraints.pins}
        special |= {limit.node for limit in self.problem.constraints.limits}
        groups: dict[object, list[int]] = {}
        for index, device in enumerate(self.problem.eligible):
            key = device if device.name in special else replace(device, name="")
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    @property
    def affordable(self) -> bool:
        states = math.prod(len(members) + 1 for members in self.classes)
        width = (self.problem.unit_count + 1) ** 2 / 2
        return states * width * len(self.classes) * (1 + len(self.classes)) <= WORK_LIMIT

    def limits_s(self) -> list[float]:
        loads = self.intervals.load_s
        values = set(loads[np.isfinite(loads)].tolist())
        for members in self.classes:
            both = self.intervals.both_ends(members[0])
            if both is not None:
                values.update(both.load_s[np.isfinite(both.load_s)].tolist())
        return sorted(values)

    def fits(self, limit_s: float) -> bool:
        return self.cheapest_ring(limit_s) is not None

    def cheapest_ring(self, limit_s: float) -> RingPlan | None:
        """The plan of least price whose loads stay within the limit."""
        within = np.where(self.intervals.load_s <= limit_s, self.intervals.price_s, math.inf)
        prices = [within[members[0]] for members in self.classes]
        units = self.problem.unit_count
        empty = tuple(0 for _ in self.classes)
        start = np.full(units + 1, math.inf)
        start[0] = 0.0
        best = self._run(prices, Layer((empty,), start[None, :], np.zeros((1, units + 1), np.int32)), units)
        for index, members in enumerate(self.classes):
            both = self.intervals.both_ends(members[0])
            if both is None:
                continue
            first = np.where(both.load_s <= limit_s, both.price_s, math.inf)
            used = tuple(int(other == index) for other in range(len(self.classes)))
            layer = Layer((used,), first[None, :], np.zeros((1, units + 1), np.int32))
            ring = self._run(prices, layer, both.tail_start, holder=index)
            if ring is not None and (best is None or ring.value_s < best.value_s):
                best = ring
        return best

    def _run(self, prices: Sequence[Floats], start: Layer, end: int, holder: int | None = None) -> RingPlan | None:
        """The cheapest way from the start layer to `end` units covered; `holder`: class of a both-ends node."""
        layers = [start]
        best_value, best_at = math.inf, (0, 0)
        for _ in range(sum(len(members) for members in self.classes)):
            layer = self._extend(prices, layers[-1], end)
            if layer is None:
                break
            layers.append(layer)
            row = int(layer.best[:, end].argmin())
            if layer.best[row, end] < best_value:
                best_value, best_at = float(layer.best[row, end]), (len(layers) - 1, row)
        if best_value == math.inf:
            return None
        return RingPlan(best_value, self._trace(layers, best_at, end, holder))

    def _extend(self, prices: Sequence[Floats], layer: Layer, end: int) -> Layer | None:
        """The states with one device more, or None when none can be reached."""
        rows: dict[State, int] = {}
        moves: list[tuple[int, list[int], list[int]]] = []
        for index, members in enumerate(self.classes):
            sources = [row for row, state in enumerate(layer.states) if state[index] < len(members)]
            targets = []
            for row in sources:
                state = layer.states[row]
                grown = (*state[:index], state[index] + 1, *state[index + 1 :])
                targets.append(rows.setdefault(grown, len(rows)))
            if sources:
                moves.append((index, sources, targets))
        width = layer.best.shape[1]
        best = np.full((len(rows), width), math.inf)
        choice = np.zeros((len(rows), width), dtype=np.int32)
        for index, sources, targets in moves:
            before = layer.best[sources]
            reached, how = best[targets], choice[targets]
            for length in range(1, end + 1):
                added = np.diagonal(prices[index], offset=length)
                if not np.isfinite(added).any():
                    break
                totals = before[:, : width - length] + added[None, :]
                better = totals < reached[:, length:]
                reached[:, length:][better] = totals[better]
                how[:, length:][better] = index * width + length
            best[targets], choice[targets] = reached, how
        if not np.isfinite(best).any():
            return None
        return Layer(tuple(rows), best, choice)

    def _trace(self, layers: list[Layer], at: tuple[int, int], end: int, holder: int | None) -> tuple[Stage, ...]:
        """The stages that led to a value, first to last, with devices of a class used in fleet order."""
        depth, row = at
        covered, taken = end, []
        state = layers[depth].states[row]
        while depth > 0:
            layer = layers[depth]
            index, length = divmod(int(layer.choice[layer.states.index(state), covered]), layer.best.shape[1])
            taken.append((index, covered - length, covered))
            state = (*state[:index], state[index] - 1, *state[index + 1 :])
            covered, depth = covered - length, depth - 1
        if holder is not None:
            taken.append((holder, 0, covered))
        names = [[self.problem.eligible[member].name for member in members] for members in self.classes]
        stages = [Stage(names[index].pop(0), start, stop) for index, start, stop in reversed(taken)]
        if holder is not None:
            stages.append(Stage(stages[0].node, end, self.problem.unit_count))
        return tuple(stages)
