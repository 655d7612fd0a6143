"""Plans made by simple rules, to set beside the optimum: one device alone, the even split, fastest first."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planning.cost import check, holdings, limits_broken, pass_s, predict
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Prediction
from orchestrator.planning.solver.search import candidate, single_plans


@dataclass(frozen=True)
class Baseline:
    """A plan for comparison. `wrong` says which limits it breaks; its figures are then what it would do."""

    name: str
    stages: tuple[Stage, ...]
    predicted: Prediction
    wrong: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return not self.wrong


def _baseline(problem: Problem, name: str, stages: tuple[Stage, ...]) -> Baseline:
    return Baseline(name, stages, predict(problem, stages), tuple(check(problem, stages)))


def best_single(problem: Problem) -> Baseline | None:
    """The best device that can hold the whole chain alone; None when none can."""
    plans = single_plans(problem)
    if not plans:
        return None
    return _baseline(problem, "best single device", min(plans, key=lambda plan: plan.value_s).stages)


def quickest_single(problem: Problem) -> Baseline | None:
    """The device that would be quickest alone if it had the memory."""
    if not problem.eligible:
        return None
    plans = [candidate(problem, problem.alone(device)) for device in problem.eligible]
    return _baseline(problem, "quickest device, memory aside", min(plans, key=lambda plan: plan.value_s).stages)


def even_split(problem: Problem) -> Baseline | None:
    """The same number of inner units for every device, in fleet order: what is done without a planner.

    The first also takes the first unit, the last the last one. None when there are no inner units to share.
    """
    inner, names = problem.unit_count - 2, [device.name for device in problem.eligible]
    names = names[: max(inner, 1)]
    if not names or inner < 1:
        return None
    edges = [1 + inner * index // len(names) for index in range(len(names) + 1)]
    edges[0], edges[-1] = 0, problem.unit_count
    stages = tuple(Stage(name, edges[i], edges[i + 1]) for i, name in enumerate(names))
    return _baseline(problem, "even split", stages)


def fastest_first(problem: Problem) -> Baseline | None:
    """Greedy: the fastest device takes what fits, then the next, until the chain is covered; None if it is not."""
    owner = {unit: pin.node for pin in problem.constraints.pins for unit in range(pin.start, pin.stop)}
    stages: list[Stage] = []
    at = 0
    for device in sorted(problem.eligible, key=lambda device: pass_s(problem, device.decode_s)):
        stop = at
        while stop < problem.unit_count and owner.get(stop, device.name) == device.name:
            longer = Stage(device.name, at, stop + 1)
            if limits_broken(problem, device, holdings(problem, (longer,))[device.name]):
                break
            stop += 1
        if stop > at:
            stages.append(Stage(device.name, at, stop))
            at = stop
    plan = _baseline(problem, "fastest first", tuple(stages)) if at == problem.unit_count else None
    return plan if plan is not None and plan.allowed else None
