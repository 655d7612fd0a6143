"""Exact plans for any chain on a small fleet: a dynamic programme over sets of devices.

State: which devices are used (equal devices are counted, not told apart), where the covered units begin (k) and
where they end (j). F[S, k, j] = min over d not in S, i < j of F[S - d, k, i] + price[d, i, j]. That is every order of
every subset of devices with every partition, in O(2^D U^3 D) steps instead of D! of them. F[S, 0, U] is an open chain.
For k > 0 a further node closes the ring: it holds both ends, [0, k) and [j, U).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solver.intervals import Arcs, Floats, Intervals, finite_values
from orchestrator.planning.solver.search import RingEngine, RingPlan

WORK_LIMIT = 3 * 10**8
"""Most array elements one pass may touch: 10 devices and 34 units; some ten passes take a few seconds."""

State = tuple[int, ...]
"""Devices used of each class."""


@dataclass(frozen=True)
class Layer:
    """All states of K devices. `best` (states, starts, U+1); `choice` the class and length of the last interval."""

    states: tuple[State, ...]
    best: Floats
    choice: NDArray[np.int32]

    def with_room(self, index: int, most: int) -> list[int]:
        """Rows of the states that may use one device more of a class that has so many."""
        return [row for row, state in enumerate(self.states) if state[index] < most]


@dataclass(frozen=True)
class Ending:
    """Where the cheapest way ends: layer, row of the state, start, end, and the class that closes the ring, if any."""

    value_s: float
    depth: int
    row: int
    start: int
    end: int
    closer: int | None


@dataclass(frozen=True)
class SequenceEngine(RingEngine):
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
    def starts(self) -> int:
        """Where chains may begin: at unit 0, and with a ring's closing node in front at any other."""
        return self.problem.unit_count if self.problem.both_ends_in_ring else 1

    @property
    def affordable(self) -> bool:
        states = math.prod(len(members) + 1 for members in self.classes)
        intervals = (self.problem.unit_count + 1) ** 2 / 2
        return states * intervals * len(self.classes) * self.starts <= WORK_LIMIT

    @cached_property
    def arcs(self) -> list[Arcs]:
        return [self.intervals.arcs(members[0]) for members in self.classes]

    def limits_s(self) -> list[float]:
        return finite_values((self.intervals.load_s, *(arcs.load_s for arcs in self.arcs)))

    def cheapest_ring(self, limit_s: float) -> RingPlan | None:
        """The plan of least price whose loads stay within the limit."""
        within = self.intervals.within(limit_s)
        prices = [within[members[0]] for members in self.classes]
        arcs = [arc.within(limit_s) for arc in self.arcs]
        layers = [self._first_layer()]
        best: Ending | None = None
        for depth in range(1, len(self.problem.eligible) + 1):
            layer = self._extend(prices, layers[-1])
            if layer is None:
                break
            layers.append(layer)
            for ending in self._endings(layer, depth, arcs):
                if best is None or ending.value_s < best.value_s:
                    best = ending
        return None if best is None else RingPlan(best.value_s, self._trace(layers, best))

    def _first_layer(self) -> Layer:
        """No device used and nothing covered, wherever the chain begins."""
        width = self.problem.unit_count + 1
        best = np.full((1, self.starts, width), math.inf)
        best[0, np.arange(self.starts), np.arange(self.starts)] = 0.0
        return Layer((tuple(0 for _ in self.classes),), best, np.zeros(best.shape, dtype=np.int32))

    def _endings(self, layer: Layer, depth: int, arcs: Sequence[Floats]) -> list[Ending]:
        """The cheapest open chain of a layer, and for each class the cheapest ring it closes."""
        units = self.problem.unit_count
        open_chains = layer.best[:, 0, units]
        row = int(open_chains.argmin())
        endings = [Ending(float(open_chains[row]), depth, row, 0, units, None)]
        for index, members in enumerate(self.classes):
            rows = layer.with_room(index, len(members))
            if rows and self.starts > 1:
                totals = layer.best[rows] + arcs[index][None, : self.starts, :]
                place, start, end = np.unravel_index(int(totals.argmin()), totals.shape)
                value = float(totals[place, start, end])
                endings.append(Ending(value, depth, rows[int(place)], int(start), int(end), index))
        return [ending for ending in endings if ending.value_s < math.inf]

    def _extend(self, prices: Sequence[Floats], layer: Layer) -> Layer | None:
        """The states with one device more, or None when none can be reached."""
        rows: dict[State, int] = {}
        moves: list[tuple[int, list[int], list[int]]] = []
        for index, members in enumerate(self.classes):
            sources = layer.with_room(index, len(members))
            targets = []
            for row in sources:
                state = layer.states[row]
                grown = (*state[:index], state[index] + 1, *state[index + 1 :])
                targets.append(rows.setdefault(grown, len(rows)))
            if sources:
                moves.append((index, sources, targets))
        width = layer.best.shape[2]
        best = np.full((len(rows), *layer.best.shape[1:]), math.inf)
        choice = np.zeros(best.shape, dtype=np.int32)
        for index, sources, targets in moves:
            before = layer.best[sources]
            reached, how = best[targets], choice[targets]
            for length in range(1, width):
                added = np.diagonal(prices[index], offset=length)
                if not np.isfinite(added).any():
                    break
                totals = before[:, :, : width - length] + added
                better = totals < reached[:, :, length:]
                np.copyto(reached[:, :, length:], totals, where=better)
                np.copyto(how[:, :, length:], index * width + length, where=better)
            best[targets], choice[targets] = reached, how
        if not np.isfinite(best).any():
            return None
        return Layer(tuple(rows), best, choice)

    def _trace(self, layers: list[Layer], ending: Ending) -> tuple[Stage, ...]:
        """The stages that led to an ending, first to last, with devices of a class used in fleet order."""
        covered, taken = ending.end, []
        state = layers[ending.depth].states[ending.row]
        for layer in reversed(layers[1 : ending.depth + 1]):
            step = int(layer.choice[layer.states.index(state), ending.start, covered])
            index, length = divmod(step, layer.best.shape[2])
            taken.append((index, covered - length, covered))
            state = (*state[:index], state[index] - 1, *state[index + 1 :])
            covered -= length
        if ending.closer is not None:
            taken.append((ending.closer, 0, covered))
        names = [[self.problem.eligible[member].name for member in members] for members in self.classes]
        stages = [Stage(names[index].pop(0), start, stop) for index, start, stop in reversed(taken)]
        if ending.closer is not None:
            stages.append(Stage(stages[0].node, ending.end, self.problem.unit_count))
        return tuple(stages)
