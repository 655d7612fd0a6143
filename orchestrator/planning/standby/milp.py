"""The standby units of most value as a mixed-integer programme in Pyomo."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.solver.pyomo_solver import MIB, solve_model
from orchestrator.planning.standby.question import COPY, WARM, Reach, Side, StandbyQuestion

_ON_DISK: Callable[[Side], tuple[int, ...]] = operator.attrgetter("disk_bytes")
_IN_MEMORY: Callable[[Side], tuple[int, ...]] = operator.attrgetter("resident_bytes")


@dataclass(frozen=True)
class StandbyProof:
    """The MILP's standby ranges, if it found any, and a bound on their value in bytes."""

    reaches: tuple[Reach, ...] | None
    bound_bytes: float
    solver: str


def best_standby(asked: StandbyQuestion, time_limit_s: float) -> StandbyProof:
    """The reaches of most value (see `plan_standby`): cold[s, j] and warm[s, j] say whether side s holds its unit j."""
    import pyomo.environ as pyo

    places = [(s, j) for s, side in enumerate(asked.sides) for j in range(len(side.units))]
    units = sorted({unit for side in asked.sides for unit in side.units})
    holders = {unit: [(s, j) for s, j in places if asked.sides[s].units[j] == unit] for unit in units}
    model = pyo.ConcreteModel()
    model.P = pyo.Set(initialize=places, dimen=2)
    model.U = pyo.Set(initialize=units)
    model.cold = pyo.Var(model.P, domain=pyo.Binary)
    model.warm = pyo.Var(model.P, domain=pyo.Binary)
    model.covered = pyo.Var(model.U, bounds=(0, 1))
    model.ready = pyo.Var(model.U, bounds=(0, 1))
    model.cover = pyo.Constraint(model.U, rule=lambda m, u: m.covered[u] <= sum(m.cold[p] for p in holders[u]))
    model.loaded = pyo.Constraint(model.U, rule=lambda m, u: m.ready[u] <= sum(m.warm[p] for p in holders[u]))
    model.on_disk = pyo.Constraint(model.P, rule=lambda m, s, j: m.warm[s, j] <= m.cold[s, j])
    model.near_first = pyo.ConstraintList()
    for s, j in places:
        if j > 0:
            model.near_first.add(model.cold[s, j] <= model.cold[s, j - 1])
            model.near_first.add(model.warm[s, j] <= model.warm[s, j - 1])

    def taken(kept: Any, sizes: Callable[[Side], tuple[int, ...]], where: list[tuple[int, int]]) -> Any:
        return sum(sizes(asked.sides[s])[j] / MIB * kept[s, j] for s, j in where)

    model.spare = pyo.ConstraintList()
    for node, memory in asked.spare_memory.items():
        mine = [(s, j) for s, j in places if asked.sides[s].node == node]
        disk = asked.spare_disk[node]
        if mine and disk is not None:
            model.spare.add(taken(model.cold, _ON_DISK, mine) <= disk / MIB)
        if mine:
            model.spare.add(taken(model.warm, _IN_MEMORY, mine) <= max(0, memory) / MIB)
    model.value = pyo.Objective(
        sense=pyo.minimize,
        expr=-sum(asked.disk_worth[u] / MIB * model.covered[u] for u in units)
        - WARM * sum(asked.resident_worth[u] / MIB * model.ready[u] for u in units)
        + COPY * taken(model.cold, _ON_DISK, places),
    )
    answer = solve_model(model, time_limit_s)
    if answer.status not in ("optimal", "feasible"):
        return StandbyProof(None, -answer.bound * MIB, answer.solver)
    reaches = [
        Reach(*(sum(round(held[s, j].value) for j in range(len(side.units))) for held in (model.cold, model.warm)))
        for s, side in enumerate(asked.sides)
    ]
    return StandbyProof(tuple(reaches), -answer.bound * MIB, answer.solver)
