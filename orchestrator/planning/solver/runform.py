"""Chains of one embedding, L like blocks and one head: how many blocks each device takes is the whole plan.

The order of devices on the ring is free (every hop goes through the broker), so a plan is a *share* per device:
blocks `n` and ends `f` (bit 0: embedding, bit 1: head). All limits of one device (memory, storage, a person's
caps, a bottleneck limit T) fold into four whole numbers, `room[f]`: the most blocks it can take with ends f, -1
when it can't hold them at all. Two exact methods use them: counting (does the fleet fit under T?) and a
dynamic programme over (blocks placed, ends placed), min-plus over devices: O(D L^2). Single-device plans are not
priced here: in this model every device used pays its hop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.cost import paper_unit_s
from orchestrator.planning.problem import Device, Objective, Problem, Stage
from schemas.units import BLOCK, EMBED, HEAD, blocks_of

EMBED_END = 1
HEAD_END = 2
BOTH_ENDS = EMBED_END | HEAD_END
ENDS = (0, EMBED_END, HEAD_END, BOTH_ENDS)

Room = tuple[int, int, int, int]
"""Most blocks with no end, the embedding, the head, both."""


@dataclass(frozen=True)
class Share:
    """Blocks and ends of one device; (0, 0) is a device left out."""

    blocks: int = 0
    ends: int = 0

    @property
    def used(self) -> bool:
        return self.blocks > 0 or self.ends > 0


@dataclass(frozen=True)
class Price:
    """Seconds per token one device adds to the objective: fixed by its ends, and for each block."""

    fixed_s: tuple[float, float, float, float]
    block_s: float


@dataclass(frozen=True)
class Plan:
    """Shares in the order of `RunForm.devices` and their summed price."""

    value_s: float
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class RunForm:
    """A problem whose chain is embed, L x block, head, with pins that touch an end (see `applies`)."""

    problem: Problem

    @staticmethod
    def applies(problem: Problem) -> bool:
        """Whether shares alone describe every plan of this problem."""
        if [run.kind for run in problem.runs] != [EMBED, BLOCK, HEAD]:
            return False
        if problem.runs[0].count != 1 or problem.runs[2].count != 1:
            return False
        return all(pin.start == 0 or pin.stop == problem.unit_count for pin in problem.constraints.pins)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        return self.problem.eligible

    @property
    def blocks(self) -> int:
        return self.problem.runs[1].count

    @cached_property
    def pinned_ends(self) -> dict[str, int]:
        """Ends that constraints give to a node, by node; other nodes may not have them."""
        ends: dict[str, int] = {}
        for pin in self.problem.constraints.pins:
            mine = (EMBED_END if pin.start == 0 else 0) | (HEAD_END if pin.stop == self.problem.unit_count else 0)
            ends[pin.node] = ends.get(pin.node, 0) | mine
        return ends

    def least_blocks(self, device: Device) -> int:
        """Blocks that pins give to the device."""
        pinned: set[int] = set()
        for pin in self.problem.constraints.pins:
            if pin.node == device.name:
                pinned.update(blocks_of(pin, self.problem.unit_count))
        return len(pinned)

    def load_s(self, device: Device, blocks: int, ends: int) -> float:
        """Busy seconds per token of a device in a ring, summed in the order `cost.load_s` uses."""
        embed_s, block_s, head_s = device.batched_s
        load = embed_s if ends & EMBED_END else 0.0
        load += blocks * block_s
        load += head_s if ends & HEAD_END else 0.0
        return load + device.hop_busy_s

    def price(self, device: Device) -> Price:
        """What the device adds to the objective's sum in a ring."""
        if self.problem.objective is Objective.PAPER:
            embed_s, block_s, head_s = paper_unit_s(self.problem, device)
            hop = device.hop_s
            return Price((hop, embed_s + hop / 2, head_s + hop / 2, math.inf), block_s)
        embed_s, block_s, head_s = device.decode_s
        hop = device.hop_s
        return Price((hop, embed_s + hop, head_s + hop, embed_s + head_s + hop), block_s)

    def room(self, device: Device, ends: int, limit_s: float = math.inf) -> int:
        """Most blocks the device can take with these ends within every limit; -1 when none of it fits."""
        embed, block, head = self.problem.runs
        held_ends = [run for run, bit in ((embed, EMBED_END), (head, HEAD_END)) if ends & bit]
        both, tied_stored = 0, 0
        if ends == BOTH_ENDS:
            both, tied_stored = self.problem.both_ends_bytes, self.problem.tied_stored_bytes
        spare = self.problem.room_bytes(device) - both
        spare -= sum(self.problem.unit_memory_bytes(run) for run in held_ends)
        most = min(self.blocks, self.problem.unit_limit(device) - len(held_ends))
        most = min(most, _whole(spare, self.problem.unit_memory_bytes(block), self.blocks))
        if device.storage_bytes is not None:
            disk = device.storage_bytes + tied_stored - sum(run.stored_bytes for run in held_ends)
            most = min(most, _whole(disk, block.stored_bytes, self.blocks))
        if limit_s < math.inf:
            most = min(most, self._room_under(device, ends, limit_s, most))
        return most if most >= 0 else -1

    def _room_under(self, device: Device, ends: int, limit_s: float, most: int) -> int:
        """Most blocks whose load is within `limit_s`, to the bit (the estimate is corrected both ways)."""
        fixed, block_s = self.load_s(device, 0, ends), device.batched_s[1]
        if fixed > limit_s:
            return -1
        if block_s == 0.0:
            return most
        blocks = max(0, min(most, int((limit_s - fixed) / block_s)))
        while blocks < most and self.load_s(device, blocks + 1, ends) <= limit_s:
            blocks += 1
        while blocks >= 0 and self.load_s(device, blocks, ends) > limit_s:
            blocks -= 1
        return blocks

    def rooms(self, limit_s: float = math.inf) -> tuple[Room, ...]:
        """`room` of every device for all ends, with pins applied."""
        return tuple(self._allowed_room(device, limit_s) for device in self.devices)

    def _allowed_room(self, device: Device, limit_s: float) -> Room:
        mine = self.pinned_ends.get(device.name, 0)
        taken = 0
        for node, ends in self.pinned_ends.items():
            taken |= ends if node != device.name else 0
        least = self.least_blocks(device)
        room = [-1, -1, -1, -1]
        for ends in ENDS:
            if ends & taken or ends & mine != mine:
                continue
            if ends == BOTH_ENDS and not self.problem.both_ends_in_ring:
                continue
            most = self.room(device, ends, limit_s)
            room[ends] = most if most >= least else -1
        return (room[0], room[1], room[2], room[3])

    def limits_s(self) -> list[float]:
        """Every value the bottleneck of a ring can have, ascending."""
        values: set[float] = set()
        for device, room in zip(self.devices, self.rooms(), strict=True):
            for ends in ENDS:
                values.update(self.load_s(device, blocks, ends) for blocks in range(room[ends] + 1))
        return sorted(values)

    def missing_blocks(self, rooms: tuple[Room, ...]) -> int:
        """Blocks the fleet can't place, by counting; 0 or less when a plan exists, a large number when an end fails."""
        best = {0: sum(max(room[0], 0) for room in rooms)}
        for room in rooms:
            spare = max(room[0], 0)
            for have, blocks in list(best.items()):
                for ends in ENDS[1:]:
                    if room[ends] >= 0 and not have & ends:
                        total = blocks + room[ends] - spare
                        best[have | ends] = max(best.get(have | ends, -1), total)
        both = best.get(BOTH_ENDS)
        return 10**9 if both is None else self.blocks - both

    def fits(self, limit_s: float = math.inf) -> bool:
        return self.missing_blocks(self.rooms(limit_s)) <= 0

    def cheapest(self, limit_s: float = math.inf, must_use: frozenset[str] = frozenset()) -> Plan | None:
        """The shares of least summed price under a bottleneck limit, by dynamic programming; None if none fit.

        Devices in `must_use` take part, whether that pays or not.
        """
        rooms, width = self.rooms(limit_s), self.blocks + 1
        best = np.full((4, width), math.inf)
        best[0, 0] = 0.0
        choices: list[NDArray[np.int32]] = []
        for device, room in zip(self.devices, rooms, strict=True):
            best, choice = self._add_device(device, room, best, skip=device.name not in must_use)
            choices.append(choice)
        value = float(best[BOTH_ENDS, self.blocks])
        if value == math.inf:
            return None
        shares: list[Share] = []
        ends, blocks = BOTH_ENDS, self.blocks
        for choice in reversed(choices):
            mine_ends, mine_blocks = divmod(int(choice[ends, blocks]), width)
            shares.append(Share(mine_blocks, mine_ends))
            ends, blocks = ends & ~mine_ends, blocks - mine_blocks
        return Plan(value, tuple(reversed(shares)))

    def _add_device(
        self, device: Device, room: Room, best: NDArray[np.float64], *, skip: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """One min-plus step. `best` (4, L+1): least price by ends and blocks placed; choice: ends * (L+1) + blocks."""
        width = self.blocks + 1
        price, least = self.price(device), self.least_blocks(device)
        left_out = skip and device.name not in self.pinned_ends
        new = best.copy() if left_out else np.full_like(best, math.inf)
        choice = np.zeros(best.shape, dtype=np.int32)
        placed = np.arange(width)
        for ends in ENDS:
            if room[ends] < max(least, 0 if ends else 1):
                continue
            taken = np.arange(max(least, 0 if ends else 1), room[ends] + 1)
            source = placed[:, None] - taken[None, :]
            valid = source >= 0
            added = price.fixed_s[ends] + price.block_s * taken
            for have in ENDS:
                if have & ends:
                    continue
                totals = np.where(valid, best[have][np.maximum(source, 0)] + added[None, :], math.inf)
                pick = totals.argmin(axis=1)
                value = totals[placed, pick]
                better = value < new[have | ends]
                new[have | ends][better] = value[better]
                choice[have | ends][better] = ends * width + taken[pick[better]]
        return new, choice

    def stages(self, shares: tuple[Share, ...]) -> tuple[Stage, ...]:
        """Stages in ring order: the embedding's holder, the others in the incumbent's or the fleet's order, the
        head's holder. A holder of both ends in a ring keeps its blocks in front and the (pinned) tail at the end."""
        used = [(device, share) for device, share in zip(self.devices, shares, strict=True) if share.used]
        place = self.problem.incumbent_place
        first = next(pair for pair in used if pair[1].ends & EMBED_END)
        last = next(pair for pair in used if pair[1].ends & HEAD_END)
        middle = [pair for pair in used if pair is not first and pair is not last]
        middle.sort(key=lambda pair: place.get(pair[0].name, len(place)))
        units = self.problem.unit_count
        if first is last and not middle:
            return self.problem.alone(first[0])
        tail = self._tail_start(first[0]) if first is last else units - 1 - last[1].blocks
        front = 1 + first[1].blocks - (units - 1 - tail if first is last else 0)
        stages = [Stage(first[0].name, 0, front)]
        for device, share in middle:
            stages.append(Stage(device.name, stages[-1].stop, stages[-1].stop + share.blocks))
        return (*stages, Stage(last[0].name, tail, units))

    def _tail_start(self, device: Device) -> int:
        """Where the last stage of a node with both ends begins: its pinned tail, or the head alone."""
        tails = [pin.start for pin in self.problem.constraints.pins if pin.node == device.name and pin.start > 0]
        return min(tails, default=self.problem.unit_count - 1)


def _whole(spare: int, each: int, most: int) -> int:
    """How many units of `each` bytes fit in `spare` bytes, at most `most`; -1 when spare is negative."""
    if spare < 0:
        return -1
    return most if each == 0 else min(most, spare // each)
