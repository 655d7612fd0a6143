"""Why a plan looks as it does: what each device adds or would cost, why one alone, why some are left out.

What a used device adds is found by planning again without it; what one that was left out would cost, by planning
again with it forced in. Both are done for at most `DEVICES_TRIED` devices.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.cost import pass_s
from orchestrator.planning.explain.baselines import Baseline, best_single
from orchestrator.planning.problem import Device, Objective, Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.runform import RunForm
from orchestrator.planning.solver.search import TIE, candidate
from orchestrator.planning.solver.solve import solve
from orchestrator.text.figures import as_ms, size_text
from schemas.messages import DeviceRole

DEVICES_TRIED = 24


def devices_said(problem: Problem, answer: Solution) -> tuple[DeviceRole, ...]:
    """A row per device, the used ones first and the busiest of them first."""
    load = {node.node: node.load_s for node in answer.predicted.nodes}
    order = sorted(problem.devices, key=lambda device: -load.get(device.name, -1.0))
    return tuple(_device(problem, answer, device, tried=place < DEVICES_TRIED) for place, device in enumerate(order))


def _device(problem: Problem, answer: Solution, device: Device, *, tried: bool) -> DeviceRole:
    """The role of a device and what the objective would be without it (used) or with it forced in (left out)."""
    used = device.name in answer.nodes
    refusal = problem.constraints.refusal(device)
    if refusal is not None:
        return DeviceRole(node=device.name, role="refused", says=refusal)
    if not tried:
        says = f"not looked into, as only {DEVICES_TRIED} devices are"
        return DeviceRole(node=device.name, role="used" if used else "left out", says=says)
    if used:
        without_s, says = _without(problem, answer, device)
        return DeviceRole(node=device.name, role="used", without_ms=_maybe_ms(without_s), says=says)
    with_s, says = _with(problem, answer, device)
    return DeviceRole(node=device.name, role="left out", with_ms=_maybe_ms(with_s), says=says)


def _maybe_ms(seconds: float | None) -> float | None:
    return None if seconds is None else as_ms(seconds)


def _without(problem: Problem, answer: Solution, device: Device) -> tuple[float | None, str]:
    others = tuple(other for other in problem.devices if other.name != device.name)
    rest = solve(replace(problem, devices=others), prove=False) if others else None
    if not isinstance(rest, Solution):
        reason = rest.reason if isinstance(rest, Infeasible) else "no device is left"
        return None, f"needed: without it {reason}"
    without_s = worth_s(problem, rest)
    return without_s, f"without it {_instead(problem, without_s, worth_s(problem, answer))}"


def _with(problem: Problem, answer: Solution, device: Device) -> tuple[float | None, str]:
    """The objective with a device forced into the ring, and what is said of that.

    The device was left out because a plan with it is never better.
    """
    if not RunForm.applies(problem):
        return None, "no plan with it is better"
    form, must_use = RunForm(problem), frozenset({device.name})
    room = form.rooms()[form.devices.index(device)]
    if room[0] < 1 and max(room[1:]) < 0:
        spare = size_text(max(0, problem.room_bytes(device)))
        return None, f"no room for a single unit ({spare} beside the runtime)"
    if problem.objective is Objective.THROUGHPUT:
        forced = form.cheapest(answer.predicted.bottleneck_s * (1 + TIE), must_use)
        if forced is None:
            return None, "even its smallest share would be the new bottleneck"
        slower = figure(forced.value_s - answer.predicted.decode_s)
        return None, f"with it no more tokens per second, and {slower} ms more per token"
    forced = form.cheapest(must_use=must_use)
    if forced is None:
        return None, "no plan can use it"
    with_s = candidate(problem, form.stages(forced.shares)).price_s
    changed = _instead(problem, with_s, worth_s(problem, answer))
    return with_s, f"with it {changed}; its hop alone takes {figure(device.hop_s)} ms"


def worth_s(problem: Problem, answer: Solution) -> float:
    """The seconds that plans are compared by: the objective, except that a balanced plan is above all a quick one."""
    return answer.predicted.decode_s if problem.objective is Objective.BALANCED else answer.objective_value


def baseline_worth_s(problem: Problem, plan: Baseline) -> float:
    return candidate(problem, plan.stages).worth_s(problem.objective)


def _instead(problem: Problem, other_s: float, plan_s: float) -> str:
    """Another plan's worth beside that of the plan explained, in words."""
    if problem.objective is Objective.THROUGHPUT:
        return f"{1 / other_s:.4g} tokens/s instead of {1 / plan_s:.4g}" if other_s and plan_s else "no difference"
    return f"{figure(other_s)} ms per token instead of {figure(plan_s)}"


def figure(seconds: float) -> str:
    """Milliseconds with four significant digits."""
    return f"{seconds * 1e3:.4g}"


def why(problem: Problem, answer: Solution) -> tuple[str, ...]:
    """Sentences a person would ask for: why alone, why not the even split, what bounds the speed."""
    said = []
    if len(answer.nodes) == 1:
        said.append(_why_alone(problem, answer))
    else:
        single = best_single(problem)
        if single is None:
            said.append("no device can hold the whole model alone")
        else:
            alone = _instead(problem, baseline_worth_s(problem, single), worth_s(problem, answer))
            said.append(f"{single.stages[0].node} could do it alone: {alone}")
        hops = sum(stage.hop_s for stage in answer.predicted.stages)
        share = 100 * hops / answer.predicted.decode_s if answer.predicted.decode_s else 0.0
        said.append(f"{len(answer.nodes)} hops take {figure(hops)} ms of each token ({share:.0f} %)")
    left_out = [device.name for device in problem.eligible if device.name not in answer.nodes]
    if left_out and len(answer.nodes) > 1:
        said.append(f"left out, for nothing is gained with them: {', '.join(left_out)}")
    if answer.gap > 0:
        said.append(f"a better plan may exist, by at most {100 * answer.gap:.1f} %")
    return tuple(said)


def _why_alone(problem: Problem, answer: Solution) -> str:
    name = answer.nodes[0]
    if len(problem.eligible) == 1:
        return f"{name} is the only device"
    ring = _best_ring_with(problem, name)
    if ring is None:
        return f"{name} alone: no other device has room for a share"
    partners, split_s = ring
    split = _instead(problem, split_s, worth_s(problem, answer))
    return f"{name} is used alone, for any split is slower: with {partners} {split}"


def _best_ring_with(problem: Problem, name: str) -> tuple[str, float] | None:
    """The partners and the objective of the best ring that includes a device, over the first devices of the fleet."""
    if not RunForm.applies(problem):
        return None
    form = RunForm(problem)
    best: tuple[str, float] | None = None
    others = [device for device in form.devices if device.name != name]
    others.sort(key=lambda device: pass_s(problem, device.decode_s) + device.hop_s)
    for other in others[:DEVICES_TRIED]:
        plan = form.cheapest(must_use=frozenset({name, other.name}))
        if plan is not None:
            ring = candidate(problem, form.stages(plan.shares))
            split_s = ring.worth_s(problem.objective)
            if best is None or split_s < best[1]:
                names = dict.fromkeys(stage.node for stage in ring.stages if stage.node != name)
                best = (", ".join(names), split_s)
    return best
