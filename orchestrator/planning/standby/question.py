"""The question of standby units: which units next to its own a node could keep ready, their worth and cost (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.cost import holdings, memory_bytes, stored_bytes
from orchestrator.planning.problem import Problem, Stage

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
        """The objective (at the top of `plan_standby`), in bytes."""
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
    own = {unit for stage in stages if stage.node == node for unit in (stage.start, stage.stop - 1)}
    disk = tuple(problem.blob_bytes(unit, beside=own) for unit in units)
    resident = tuple(problem.resident_bytes(unit, beside=own) for unit in units)
    return Side(node, units, disk, resident, leftwards)
