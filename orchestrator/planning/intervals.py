"""For any chain: what each device may hold as one interval of units, and what that costs.

Used where counts are not enough: units that are not alike, or pins in the middle of the chain. Prices and loads
are added up in the order `cost` uses, so a limit means the same here and there, to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning import cost
from orchestrator.planning.problem import Device, Objective, Problem, Stage

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BothEnds:
    """A device that holds [0, k) and the tail [m, U) of a ring. Arrays have one entry per k; inf: not allowed."""

    tail_start: int
    price_s: Floats
    load_s: Floats


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
        resident = _prefix([problem.unit_memory_bytes(problem.runs[run]) for run in problem.run_of_unit])
        stored = _prefix([problem.runs[run].stored_bytes for run in problem.run_of_unit])
        length = np.arange(units + 1)[None, :] - np.arange(units + 1)[:, None]
        masks = []
        for device in self.devices:
            spare = problem.memory_limit_bytes(device) - problem.fixed_bytes(device)
            whole = np.zeros((units + 1, units + 1), dtype=np.int64)
            whole[0, units] = 1
            mask = (length > 0) & (length <= problem.unit_limit(device))
            mask &= resident[None, :] - resident[:, None] - whole * problem.tied_bytes <= spare
            if device.storage_bytes is not None:
                disk = stored[None, :] - stored[:, None] - whole * problem.tied_stored_bytes
                mask &= disk <= device.storage_bytes
            foreign = _prefix([int(owner not in (None, device.name)) for owner in self._pin_owners])
            mask &= foreign[None, :] - foreign[:, None] == 0
            masks.append(mask)
        return np.array(masks, dtype=np.bool_).reshape(len(self.devices), units + 1, units + 1)

    @cached_property
    def _pin_owners(self) -> list[str | None]:
        owners: list[str | None] = [None] * self.problem.unit_count
        for pin in self.problem.constraints.pins:
            owners[pin.start : pin.stop] = [pin.node] * (pin.stop - pin.start)
        return owners

    def both_ends(self, index: int) -> BothEnds | None:
        """Prices of holding both ends for one device; None where pins or the objective rule it out.

        The tail is the head alone, or what is pinned to the node up to the head.
        """
        problem, units = self.problem, self.problem.unit_count
        device = self.devices[index]
        if not problem.both_ends_in_ring or units < 3:
            return None
        tail = units - 1
        while tail > 1 and self._pin_owners[tail - 1] == device.name and self._pin_owners[tail] == device.name:
            tail -= 1
        if any(owner not in (None, device.name) for owner in [self._pin_owners[0], *self._pin_owners[tail:]]):
            return None
        prices, loads = np.full(units + 1, math.inf), np.full(units + 1, math.inf)
        for front in range(1, tail):
            if self._pin_owners[front - 1] not in (None, device.name):
                break
            stages = (Stage(device.name, 0, front), Stage(device.name, tail, units))
            held = cost.holdings(problem, stages)[device.name]
            disk = device.storage_bytes
            if (
                held.units > problem.unit_limit(device)
                or cost.memory_bytes(problem, device, held) > problem.memory_limit_bytes(device)
                or (disk is not None and cost.stored_bytes(problem, held) > disk)
            ):
                break
            prices[front] = cost.weighted(held.counts, device.decode_s) + device.hop_s
            loads[front] = cost.load_s(device, held, ring=True)
        return BothEnds(tail, prices, loads)


def _prefix(sizes: list[int]) -> NDArray[np.int64]:
    """Prefix sums with a leading 0."""
    return np.concatenate(([0], np.cumsum(np.array(sizes, dtype=np.int64))))
