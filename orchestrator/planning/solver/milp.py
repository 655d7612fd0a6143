"""The mixed-integer programme in Pyomo, solved by GLPK, or by HiGHS where no glpsol is found.

The only module that imports Pyomo, and only when it solves. Symbols, as in docs/planning.md:

    d in D        devices                       n[d]  integer, blocks on d
    N[d, f]       `RunForm.room`: most blocks   u[d]  binary, d is used
                  on d with ends f              e[d], t[d]  binary, d holds embedding / head
    a[d, f], b[d] `RunForm.price`: seconds      z[d]  = e[d] and t[d]

    min  sum_d  b n + a0 u + (a1 - a0) e + (a2 - a0) t + (a3 - a1 - a2 + a0) z
    s.t. sum_d n = L     sum_d e = 1     sum_d t = 1     e, t <= u     e + t - 1 <= z <= e, t
         n <= N0 u + (N1 - N0) e + (N2 - N0) t + (N3 - N1 - N2 + N0) z

Memory, storage, caps and the bottleneck limit are inside N as whole numbers, so the solver sees no bytes and its
tolerances can't let a byte too many pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.planning.cost import paper_unit_s, pass_s
from orchestrator.planning.problem import Device, Objective, Problem
from orchestrator.planning.solver.pyomo_solver import MIB, solve_model, solver_name
from orchestrator.planning.solver.runform import BOTH_ENDS, EMBED_END, HEAD_END, Plan, Room, RunForm, Share


@dataclass(frozen=True)
class Proof:
    """The MILP's word on one question: its plan, if it found one, and what it proved. Seconds, not scaled."""

    status: str
    plan: Plan | None
    bound_s: float
    solver: str


def cheapest(form: RunForm, limit_s: float = math.inf, expected_s: float = 1.0) -> Proof:
    """The shares of least summed price under a bottleneck limit, by MILP.

    `expected_s` is about the optimum: the objective is scaled by it, so that the solver works with figures near 1000.
    """
    scale = 1000.0 / expected_s if expected_s > 0 else 1.0
    model = _share_model(form, form.rooms(limit_s), scale)
    if model is None:
        return Proof("infeasible", None, math.inf, solver_name() or "none")
    answer = solve_model(model, form.problem.time_limit_s)
    plan = None
    if answer.status in ("optimal", "feasible"):
        shares = [Share()] * len(form.devices)
        for d in model.D:
            ends = EMBED_END * round(model.e[d].value) | HEAD_END * round(model.t[d].value)
            shares[d] = Share(round(model.n[d].value), ends)
        plan = Plan(_value(form, shares), tuple(shares))
    return Proof(answer.status, plan, answer.bound / scale, answer.solver)


def _value(form: RunForm, shares: list[Share]) -> float:
    """The summed price of shares, counted here and not taken from the solver."""
    prices = [form.price(device) for device in form.devices]
    return sum(
        price.fixed_s[share.ends] + price.block_s * share.blocks
        for price, share in zip(prices, shares, strict=True)
        if share.used
    )


def _share_model(form: RunForm, rooms: tuple[Room, ...], scale: float) -> Any:
    """The programme at the top of this module, or None when no device can hold an end."""
    import pyomo.environ as pyo

    able = [d for d, room in enumerate(rooms) if max(room) >= 0]
    ends_possible = [
        any(rooms[d][ends] >= 0 for d in able for ends in (end, BOTH_ENDS)) for end in (EMBED_END, HEAD_END)
    ]
    if not all(ends_possible):
        return None
    prices = {d: form.price(form.devices[d]) for d in able}
    model = pyo.ConcreteModel()
    model.D = pyo.Set(initialize=able)
    model.n = pyo.Var(model.D, domain=pyo.NonNegativeIntegers, bounds=lambda _, d: (0, max(rooms[d])))
    _may_be_used(model)
    model.z = pyo.Var(model.D, domain=pyo.Binary)

    def by_ends(figures: tuple[float, ...], d: int) -> Any:
        """A figure that depends on the ends a device holds, as a linear expression."""
        none, embed, head, both = figures
        mixed = both - embed - head + none
        return none * model.u[d] + (embed - none) * model.e[d] + (head - none) * model.t[d] + mixed * model.z[d]

    def fixed(d: int) -> tuple[float, ...]:
        """Fixed prices, scaled; where a combination of ends is not allowed its price does not matter."""
        return tuple(scale * (figure if math.isfinite(figure) else 0.0) for figure in prices[d].fixed_s)

    model.price = pyo.Objective(
        expr=sum(scale * prices[d].block_s * model.n[d] + by_ends(fixed(d), d) for d in model.D)
    )
    model.cover_blocks = pyo.Constraint(expr=sum(model.n[d] for d in model.D) == form.blocks)
    _one_holds_each_end(model)
    model.room = pyo.Constraint(model.D, rule=lambda m, d: m.n[d] <= by_ends(rooms[d], d))
    _who_holds_is_used(model)
    model.both_ends = pyo.Constraint(model.D, rule=lambda m, d: m.z[d] >= m.e[d] + m.t[d] - 1)
    model.both_embed = pyo.Constraint(model.D, rule=lambda m, d: m.z[d] <= m.e[d])
    model.both_head = pyo.Constraint(model.D, rule=lambda m, d: m.z[d] <= m.t[d])
    _apply_pins(form, model)
    _break_symmetry(form, model)
    return model


def _may_be_used(model: Any) -> None:
    """Which devices are used, and which hold the first and the last unit."""
    import pyomo.environ as pyo

    model.u = pyo.Var(model.D, domain=pyo.Binary)
    model.e = pyo.Var(model.D, domain=pyo.Binary)
    model.t = pyo.Var(model.D, domain=pyo.Binary)


def _one_holds_each_end(model: Any) -> None:
    import pyomo.environ as pyo

    model.one_first = pyo.Constraint(expr=sum(model.e[d] for d in model.D) == 1)
    model.one_last = pyo.Constraint(expr=sum(model.t[d] for d in model.D) == 1)


def _who_holds_is_used(model: Any) -> None:
    import pyomo.environ as pyo

    model.first_used = pyo.Constraint(model.D, rule=lambda m, d: m.e[d] <= m.u[d])
    model.last_used = pyo.Constraint(model.D, rule=lambda m, d: m.t[d] <= m.u[d])


def relaxed_bound_s(problem: Problem, *, load: bool) -> float:
    """A value no ring can beat: its summed price, or with `load` its bottleneck, when devices need not hold
    neighbouring units. For chains whose units are not alike; minus infinity when the solver proves nothing in time.
    """
    import pyomo.environ as pyo

    devices, runs = problem.eligible, problem.runs
    last = len(runs) - 1
    paper = problem.objective is Objective.PAPER
    unit_s = [paper_unit_s(problem, device) if paper else device.decode_s for device in devices]
    # Half a hop is not paid at either end of the paper's open chain.
    end_s = [device.hop_s / 2 if paper else 0.0 for device in devices]
    model = pyo.ConcreteModel()
    model.D = pyo.Set(initialize=range(len(devices)))
    model.R = pyo.Set(initialize=range(len(runs)))
    domain = pyo.NonNegativeReals if load else pyo.NonNegativeIntegers
    model.n = pyo.Var(model.D, model.R, domain=domain)
    _may_be_used(model)
    model.T = pyo.Var(domain=pyo.NonNegativeReals)
    model.cover = pyo.Constraint(model.R, rule=lambda m, r: sum(m.n[d, r] for d in m.D) == runs[r].count)
    _one_holds_each_end(model)
    model.used = pyo.Constraint(model.D, model.R, rule=lambda m, d, r: m.n[d, r] <= runs[r].count * m.u[d])
    _who_holds_is_used(model)

    def memory(m: Any, d: int) -> Any:
        units = sum(problem.unit_memory_bytes(runs[r]) / MIB * m.n[d, r] for r in m.R)
        room = problem.room_bytes(devices[d]) / MIB * m.u[d]
        return units - problem.tied_bytes / MIB * (m.e[d] + m.t[d]) / 2 <= room

    model.memory = pyo.Constraint(model.D, rule=memory)
    scale = 1000.0 / max(pass_s(problem, unit_s[0]), 1e-12)
    if load:
        model.loads = pyo.Constraint(
            model.D,
            rule=lambda m, d: scale * sum(devices[d].batched_s[r] * m.n[d, r] for r in m.R) <= m.T,
        )
        model.price = pyo.Objective(expr=model.T)
    else:
        model.price = pyo.Objective(
            expr=sum(scale * unit_s[d][r] * model.n[d, r] for d in model.D for r in model.R)
            + sum(scale * devices[d].hop_s * model.u[d] for d in model.D)
            - sum(scale * end_s[d] * (model.e[d] + model.t[d]) for d in model.D)
        )
    model.ends = pyo.ConstraintList()
    for d in model.D:
        model.ends.add(model.e[d] <= model.n[d, 0])
        model.ends.add(model.t[d] <= model.n[d, last])
    answer = solve_model(model, problem.time_limit_s)
    return math.inf if answer.status == "infeasible" else answer.bound / scale


def _apply_pins(form: RunForm, model: Any) -> None:
    for d in model.D:
        device = form.devices[d]
        ends = form.pinned_ends.get(device.name, 0)
        if ends & EMBED_END:
            model.e[d].fix(1)
        if ends & HEAD_END:
            model.t[d].fix(1)
        if ends:
            model.n[d].setlb(form.least_blocks(device))


def _break_symmetry(form: RunForm, model: Any) -> None:
    """Among equal devices: the first may hold an end, the second the head, the rest take blocks in falling order.

    Any plan can be renamed into this shape without changing its price, and without it a fleet of equal devices
    has as many optima as it has orders.
    """
    import pyomo.environ as pyo

    model.order = pyo.ConstraintList()
    for members in _equal_devices(form, model.D):
        for place, d in enumerate(members):
            if place >= 1:
                model.e[d].fix(0)
            if place >= 2:
                model.t[d].fix(0)
            if place >= 3:
                model.order.add(model.n[d] <= model.n[members[place - 1]])
                model.order.add(model.u[d] <= model.u[members[place - 1]])


def _equal_devices(form: RunForm, devices: Any) -> list[list[int]]:
    """Groups of devices that differ only in name; pinned and capped ones stay alone."""
    groups: dict[tuple[Device, Room], list[int]] = {}
    rooms = form.rooms()
    for d in devices:
        device = form.devices[d]
        if device.name not in form.pinned_ends:
            groups.setdefault((replace(device, name=""), rooms[d]), []).append(d)
    return [members for members in groups.values() if len(members) > 1]
