"""The second solve: which units of its neighbours each node keeps ready, inside its spare storage and memory.

A standby range starts at the node's own boundary, so that boundary can move over it without a download, and a lost
neighbour's units are already there. Wanted is the most bytes of the chain that a second node holds:

    max  sum over units of   disk bytes x covered  +  WARM x resident bytes x warm  -  COPY x bytes of all copies

A unit counts once however many nodes hold it; `warm` units are also loaded, which needs memory besides disk. The
last term keeps a solver from filling disks with second copies that cover nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning import milp
from orchestrator.planning.cost import holdings, memory_bytes, stored_bytes
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Standby

WARM = 0.25
COPY = 0.001


@dataclass(frozen=True)
class Side:
    """What one stage may hold of one neighbour: units by distance from the boundary, and what each takes here."""

    node: str
    units: tuple[int, ...]
    disk_bytes: tuple[int, ...]
    resident_bytes: tuple[int, ...]
    leftwards: bool


@dataclass(frozen=True)
class Reach:
    """How far one side reaches: units on disk, and how many of them warm."""

    cold: int
    warm: int


@dataclass(frozen=True)
class StandbyQuestion:
    """All sides of a plan, spare bytes by node (disk None: not limited), and the bytes each unit is worth."""

    sides: tuple[Side, ...]
    spare_disk: Mapping[str, int | None]
    spare_memory: Mapping[str, int]
    disk_worth: tuple[int, ...]
    resident_worth: tuple[int, ...]

    def value(self, reaches: Sequence[Reach]) -> float:
        """The objective at the top of this module, in bytes."""
        cold: set[int] = set()
        warm: set[int] = set()
        copies = 0
        for side, reach in zip(self.sides, reaches, strict=True):
            cold.update(side.units[: reach.cold])
            warm.update(side.units[: reach.warm])
            copies += sum(side.disk_bytes[: reach.cold])
        covered = sum(self.disk_worth[unit] for unit in cold)
        return covered + WARM * sum(self.resident_worth[unit] for unit in warm) - COPY * copies

    def fits(self, reaches: Sequence[Reach]) -> bool:
        disk = dict.fromkeys(self.spare_memory, 0)
        memory = dict.fromkeys(self.spare_memory, 0)
        for side, reach in zip(self.sides, reaches, strict=True):
            disk[side.node] += sum(side.disk_bytes[: reach.cold])
            memory[side.node] += sum(side.resident_bytes[: reach.warm])
            if not reach.warm <= reach.cold <= len(side.units):
                return False
        return all(self._within(node, disk[node], memory[node]) for node in self.spare_memory)

    def _within(self, node: str, disk: int, memory: int) -> bool:
        spare_disk = self.spare_disk[node]
        # A node over its limits in the plan itself never gets here; a spare of 0 allows nothing that takes bytes.
        return (spare_disk is None or disk <= spare_disk) and memory <= max(0, self.spare_memory[node])


@dataclass(frozen=True)
class StandbyPlan:
    """Standby ranges of a plan; `value_bytes` is the objective, `gap` what was not proven (0.0: optimal)."""

    standby: tuple[Standby, ...]
    value_bytes: float
    solver: str
    gap: float


def question(problem: Problem, stages: Sequence[Stage], *, disk_only: bool = False) -> StandbyQuestion:
    """What may be kept where, from a checked plan; with ``disk_only`` nothing is warm."""
    held = holdings(problem, stages)
    sides = []
    for index, stage in enumerate(stages):
        if index > 0 and stages[index - 1].node != stage.node:
            near = range(stage.start - 1, stages[index - 1].start - 1, -1)
            sides.append(_side(problem, stage.node, tuple(near), leftwards=True, stages=stages))
        if index + 1 < len(stages) and stages[index + 1].node != stage.node:
            near = range(stage.stop, stages[index + 1].stop)
            sides.append(_side(problem, stage.node, tuple(near), leftwards=False, stages=stages))
    spare_disk: dict[str, int | None] = {}
    spare_memory: dict[str, int] = {}
    for node, mine in held.items():
        device = problem.device_by_name[node]
        storage = device.storage_bytes
        spare_disk[node] = None if storage is None else storage - stored_bytes(problem, mine)
        spare_memory[node] = problem.memory_limit_bytes(device) - memory_bytes(problem, device, mine)
        if disk_only:
            spare_memory[node] = 0
    runs = [problem.runs[run] for run in problem.run_of_unit]
    return StandbyQuestion(
        tuple(sides),
        spare_disk,
        spare_memory,
        tuple(run.stored_bytes for run in runs),
        tuple(run.weight_bytes for run in runs),
    )


def _side(problem: Problem, node: str, units: tuple[int, ...], *, leftwards: bool, stages: Sequence[Stage]) -> Side:
    """Sizes of units on one node; an end whose tied twin the node already holds takes only the difference."""
    ends = {0, problem.unit_count - 1}
    has_end = any(stage.node == node and (stage.start == 0 or stage.stop == problem.unit_count) for stage in stages)
    disk, resident = [], []
    for unit in units:
        run = problem.runs[problem.run_of_unit[unit]]
        twin = has_end and unit in ends
        disk.append(max(0, run.stored_bytes - (problem.tied_stored_bytes if twin else 0)))
        resident.append(max(0, run.weight_bytes - (problem.tied_bytes if twin else 0)))
    return Side(node, units, tuple(disk), tuple(resident), leftwards)


def plan_standby(problem: Problem, stages: Sequence[Stage], *, disk_only: bool = False) -> StandbyPlan:
    """The standby ranges worth most for a plan, by MILP; by greedy growth where no solver is installed."""
    asked = question(problem, stages, disk_only=disk_only)
    if not asked.sides:
        return StandbyPlan((), 0.0, "none", 0.0)
    reaches, solver, gap = grow_greedily(asked), "greedy", 1.0
    if milp.solver_name() is not None:
        proof = milp.best_standby(asked, problem.time_limit_s)
        if (
            proof.reaches is not None
            and asked.fits(proof.reaches)
            and asked.value(proof.reaches) > asked.value(reaches)
        ):
            reaches = proof.reaches
        solver = proof.solver
        value = asked.value(reaches)
        gap = max(0.0, proof.bound_bytes / value - 1) if value > 0 else 0.0
    return StandbyPlan(_ranges(asked, reaches), asked.value(reaches), solver, gap if gap > 1e-6 else 0.0)


def grow_greedily(asked: StandbyQuestion) -> tuple[Reach, ...]:
    """Grow one side by one unit at a time, whichever adds most value per byte, while anything adds value."""
    reaches = [Reach(0, 0)] * len(asked.sides)
    while True:
        best: tuple[float, int, Reach] | None = None
        now = asked.value(reaches)
        for index, reach in enumerate(reaches):
            for grown in (Reach(reach.cold + 1, reach.warm), Reach(reach.cold, reach.warm + 1)):
                trial = [*reaches[:index], grown, *reaches[index + 1 :]]
                if asked.fits(trial):
                    side = asked.sides[index]
                    took = side.disk_bytes[reach.cold] if grown.cold > reach.cold else side.resident_bytes[reach.warm]
                    gain = (asked.value(trial) - now) / max(took, 1)
                    if gain > 0 and (best is None or gain > best[0]):
                        best = (gain, index, grown)
        if best is None:
            return tuple(reaches)
        reaches[best[1]] = best[2]


def _ranges(asked: StandbyQuestion, reaches: Sequence[Reach]) -> tuple[Standby, ...]:
    ranges = []
    for side, reach in zip(asked.sides, reaches, strict=True):
        if reach.cold == 0:
            continue
        if side.leftwards:
            stop = side.units[0] + 1
            ranges.append(Standby(side.node, stop - reach.cold, stop, stop - reach.warm, stop))
        else:
            start = side.units[0]
            ranges.append(Standby(side.node, start, start + reach.cold, start, start + reach.warm))
    return tuple(ranges)
