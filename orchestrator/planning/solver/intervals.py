"""Intervals of units, for any chain: what each device may hold as one interval, and what that costs.

Used where counts are not enough: units that are not alike, or pins in the middle of the chain. Prices and loads
are added up in the order `cost` uses, so a limit means the same here and there, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning import cost
from orchestrator.planning.problem import Device, Objective, Problem

Floats = NDArray[np.float64]
_Number = TypeVar("_Number", np.float64, np.int64)


@dataclass(frozen=True)
class Arcs:
    """A device that holds both ends of a ring, [0, k) and [m, U): arrays (U+1, U+1) by k and m; inf: not allowed."""

    price_s: Floats
    load_s: Floats

    def within(self, limit_s: float) -> Floats:
        """Prices where the load is within a limit; infinite elsewhere."""
        return _within(self.price_s, self.load_s, limit_s)


@dataclass(frozen=True)
class Intervals:
    """Prices and loads of every interval [i, j) on every eligible device, as arrays (D, U+1, U+1)."""

    problem: Problem

    @property
    def devices(self) -> tuple[Device, ...]:
        return self.problem.eligible

    @cached_property
    def load_s(self) -> Floats:
        """Busy seconds per token of device d when it holds [i, j); inf where it may not."""
        busy = np.array([device.hop_busy_s for device in self.devices])
        load = self._summed([device.batched_s for device in self.devices]) + busy[:, None, None]
        return np.where(self._allowed, load, math.inf)

    @cached_property
    def price_s(self) -> Floats:
        """What device d with [i, j) adds to the objective's sum in a ring; inf where it may not hold it."""
        hop = np.array([device.hop_s for device in self.devices])
        if self.problem.objective is not Objective.PAPER:
            price = self._summed([device.decode_s for device in self.devices]) + hop[:, None, None]
            return np.where(self._allowed, price, math.inf)
        price = self._summed([cost.paper_unit_s(self.problem, device) for device in self.devices])
        # An open chain: its first stage is never entered, its last never left (half a hop each).
        price += hop[:, None, None]
        price[:, 0, :] -= hop[:, None] / 2
        price[:, :, -1] -= hop[:, None] / 2
        return np.where(self._allowed, price, math.inf)

    def within(self, limit_s: float) -> Floats:
        """Prices where the load is within a limit; infinite elsewhere."""
        return _within(self.price_s, self.load_s, limit_s)

    def _summed(self, figures: list[tuple[float, ...]]) -> Floats:
        """Seconds of units [i, j) per device: full runs are added first to last, as `cost.weighted` does."""
        units, run_of = self.problem.unit_count, self.problem.run_of_unit
        per_run = np.array(figures, dtype=np.float64).reshape(len(figures), len(self.problem.runs))
        total = np.zeros((len(figures), units + 1, units + 1))
        for start in range(units):
            finished, count = np.zeros(len(figures)), 0
            for unit in range(start, units):
                count += 1
                current = finished + count * per_run[:, run_of[unit]]
                total[:, start, unit + 1] = current
                if unit + 1 < units and run_of[unit + 1] != run_of[unit]:
                    finished, count = current, 0
        return total

    @cached_property
    def _allowed(self) -> NDArray[np.bool_]:
        """Where memory, storage, a person's caps and pins let device d hold [i, j)."""
        problem, units = self.problem, self.problem.unit_count
        length = _between(np.arange(units + 1))
        masks = []
        for device in self.devices:
            whole = np.zeros((units + 1, units + 1), dtype=np.int64)
            whole[0, units] = 1
            mask = (length > 0) & (length <= problem.unit_limit(device))
            mask &= _between(self._resident) - whole * problem.tied_bytes <= problem.room_bytes(device)
            if device.storage_bytes is not None:
                mask &= _between(self._stored) - whole * problem.tied_stored_bytes <= device.storage_bytes
            mask &= _between(self._foreign(device)) == 0
            masks.append(mask)
        return np.array(masks, dtype=np.bool_).reshape(len(self.devices), units + 1, units + 1)

    @cached_property
    def _resident(self) -> NDArray[np.int64]:
        return _prefix([self.problem.unit_memory_bytes(self.problem.runs[run]) for run in self.problem.run_of_unit])

    @cached_property
    def _stored(self) -> NDArray[np.int64]:
        return _prefix([self.problem.runs[run].stored_bytes for run in self.problem.run_of_unit])

    def _foreign(self, device: Device) -> NDArray[np.int64]:
        """Units pinned to other nodes, as prefix sums."""
        owners: list[str | None] = [None] * self.problem.unit_count
        for pin in self.problem.constraints.pins:
            owners[pin.start : pin.stop] = [pin.node] * (pin.stop - pin.start)
        return _prefix([int(owner not in (None, device.name)) for owner in owners])

    def arcs(self, index: int) -> Arcs:
        """What device `index` may hold at both ends of a ring, others in between."""
        problem, units = self.problem, self.problem.unit_count
        device = self.devices[index]
        front, back = np.arange(units + 1)[:, None], np.arange(units + 1)[None, :]
        mask = (front > 0) & (front < back) & (back < units) & problem.both_ends_in_ring
        mask &= front + units - back <= problem.unit_limit(device)
        mask &= _ends(self._resident) <= problem.room_bytes(device) - problem.both_ends_bytes
        if device.storage_bytes is not None:
            mask &= _ends(self._stored) <= device.storage_bytes + problem.tied_stored_bytes
        mask &= _ends(self._foreign(device)) == 0
        price = self._ends_s(device.decode_s) + device.hop_s
        load = self._ends_s(device.batched_s) + device.hop_busy_s
        return Arcs(np.where(mask, price, math.inf), np.where(mask, load, math.inf))

    def _ends_s(self, figures: tuple[float, ...]) -> Floats:
        """Seconds of units [0, k) and [m, U), by k and m."""
        return _ends(np.concatenate(([0.0], np.cumsum([figures[run] for run in self.problem.run_of_unit]))))


def finite_values(arrays: Iterable[Floats]) -> list[float]:
    """All finite values of some arrays, each once, in ascending order."""
    values: set[float] = set()
    for array in arrays:
        values.update(array[np.isfinite(array)].tolist())
    return sorted(values)


def _within(price_s: Floats, load_s: Floats, limit_s: float) -> Floats:
    return np.where(load_s <= limit_s, price_s, math.inf)


def _between(sums: NDArray[_Number]) -> NDArray[_Number]:
    """Sizes of units [i, j), by i and j, from prefix sums."""
    total: NDArray[_Number] = sums[None, :] - sums[:, None]
    return total


def _ends(sums: NDArray[_Number]) -> NDArray[_Number]:
    """Sizes of units [0, k) and [m, U), by k and m, from prefix sums."""
    total: NDArray[_Number] = sums[:, None] + (sums[-1] - sums)[None, :]
    return total


def _prefix(sizes: list[int]) -> NDArray[np.int64]:
    """Prefix sums with a leading 0."""
    return np.concatenate(([0], np.cumsum(np.array(sizes, dtype=np.int64))))
