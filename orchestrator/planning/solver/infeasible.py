"""Why there is no plan, by how many bytes, and the smallest change that would allow one.

Every fix is tried before it is named: the problem is changed accordingly and asked again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from orchestrator.planning.problem import Constraints, Device, Objective, Pin, Problem
from orchestrator.planning.solution import Infeasible
from orchestrator.planning.solver.feasible import is_feasible
from orchestrator.planning.solver.search import first_that
from orchestrator.planning.solver.shrink import largest_caches
from orchestrator.text.figures import size_text

DEVICES_TRIED = 16
"""For how many devices, the largest first, the missing memory is worked out."""


def explain_infeasible(problem: Problem) -> Infeasible:
    """The reason and the fixes for a problem that has no plan.

    Where its caches may be smaller: the largest that fit, or what is missing for the smallest ones. Where no caches fit
    beside a draft model: the same without it.
    """
    if lost := _pins_without_node(problem):
        return _unkept(problem, lost)
    may_shrink = problem.least_context_tokens is not None or problem.least_slots is not None
    fits = largest_caches(problem) if may_shrink else None
    if problem.without_draft and fits is None:
        return _explain_without_draft(problem, problem.without_draft)
    if may_shrink and fits is None:
        return _explain_smallest(problem)
    reason = _reason(problem)
    fixes = list(itertools.islice(_lifted_constraints(problem), 3))
    device, missing = _least_extra(problem, _with_memory)
    if device is not None and (missing <= device.memory_bytes or device.memory_is_limited):
        fixes.append(_more_memory(device, missing))
    elif device is not None:  # more than it has now: no device is twice as large as it looks
        fixes += _more_for_all(problem)
    fixes += _smaller_cache(problem)
    spacious, disk = _least_extra(problem, _with_storage)
    if device is None and spacious is not None:
        fixes.append(f"free {size_text(disk)} of storage on {spacious.name!r}")
    added = _new_device(problem)
    if added is not None:
        fixes.append(f"add a device with {size_text(added)} of usable memory")
    smallest = fixes[0] if fixes else "choose a smaller model or a lower precision"
    missing_bytes = missing if device is not None else max(0, _short_bytes(problem))
    return Infeasible(reason, missing_bytes, smallest, tuple(fixes), _rooms(problem), fits)


def _explain_without_draft(problem: Problem, bare: Problem) -> Infeasible:
    if is_feasible(bare):
        return Infeasible(_reason(problem), problem.draft_bytes, "serve without the draft model", fits=bare)
    return explain_infeasible(bare)


def _more_memory(device: Device, missing_bytes: int) -> str:
    more, total = size_text(missing_bytes), size_text(device.memory_bytes + missing_bytes)
    if device.memory_is_limited:
        return f"raise the --memory-limit-mb of {device.name!r} by {more} ({total} in all)"
    return f"free {more} of memory on {device.name!r} ({total} in all)"


def _explain_smallest(problem: Problem) -> Infeasible:
    smallest = _with_smallest_caches(problem)
    found = explain_infeasible(smallest)
    caches = f"with {smallest.context_tokens} tokens of context and {smallest.slots} at once, the least that is served"
    return replace(found, reason=f"{found.reason} ({caches})")


def _with_smallest_caches(problem: Problem) -> Problem:
    """The problem with the smallest caches that it allows, which may not be reduced any more."""
    context_tokens, slots = problem.least_context_tokens or problem.context_tokens, problem.least_slots or problem.slots
    smallest = problem.with_caches(min(context_tokens, problem.context_tokens), min(slots, problem.slots))
    return replace(smallest, least_context_tokens=None, least_slots=None)


def _pins_without_node(problem: Problem) -> list[Pin]:
    """Pins to nodes that take no part, whatever room the others have; none where nobody may take part."""
    names = {device.name for device in problem.eligible}
    return [pin for pin in problem.constraints.pins if pin.node not in names] if names else []


def _unkept(problem: Problem, pins: Sequence[Pin]) -> Infeasible:
    """Why pins can't be kept whose nodes take no part, and what would help: neither memory nor smaller caches would."""
    smallest = _with_smallest_caches(problem)
    known = problem.device_by_name.get(pins[0].node)
    why = "not there" if known is None else f"left out ({problem.constraints.refusal(known)})"
    fixes = list(itertools.islice(_lifted_constraints(smallest), 3))
    back = f"start {pins[0].node!r}" if known is None else f"let {pins[0].node!r} take part"
    return Infeasible(
        f"{pins[0].said} can't be kept: {pins[0].node!r} is {why}", 0, fixes[0] if fixes else back, tuple(fixes)
    )


def _rooms(problem: Problem) -> tuple[tuple[str, int], ...]:
    """What each device has for units and their caches, by name."""
    return tuple((device.name, max(0, problem.room_bytes(device))) for device in problem.eligible)


def _more_for_all(problem: Problem) -> list[str]:
    """The fix of freeing as much memory on each device that may take part; empty where no such fix helps."""
    most = min((device.memory_bytes for device in problem.eligible), default=0)

    def works(extra_bytes: int) -> bool:
        more = (replace(device, memory_bytes=device.memory_bytes + extra_bytes) for device in problem.eligible)
        return is_feasible(_replaced(problem, *more))

    if len(problem.eligible) < 2 or most < 1 or not works(most):
        return []
    names = ", ".join(device.name for device in problem.eligible[:DEVICES_TRIED])
    return [f"free {size_text(_least(0, most, works))} of memory on each of {names}"]


def _reason(problem: Problem) -> str:
    """One sentence, in the order in which a person would look."""
    if not problem.eligible:
        refused = ", ".join(f"{device.name}: {problem.constraints.refusal(device)}" for device in problem.devices)
        return f"no device may take part ({refused})"
    largest = max(problem.room_bytes(device) for device in problem.eligible)
    for run in problem.runs:
        if problem.unit_memory_bytes(run) > largest:
            need, have = size_text(problem.unit_memory_bytes(run)), size_text(max(0, largest))
            return f"one {run.kind} unit needs {need}, and no device has more than {have} for units"
    short = _short_bytes(problem)
    needed, room = size_text(_needed_bytes(problem)), size_text(_room_bytes(problem))
    if short > 0:
        return f"needs {needed}, the fleet has {room}; short by {size_text(short)}"
    if not problem.both_ends_in_ring and is_feasible(replace(problem, objective=Objective.LATENCY)):
        return "it fits only with both ends of the ring on one node, which an open chain can't have"
    limited = [device for device in problem.eligible if device.storage_bytes is not None]
    if limited and is_feasible(_replaced(problem, *(replace(device, storage_bytes=None) for device in limited))):
        return f"needs {needed} of memory, which the fleet has, but too little storage for the weights"
    return f"needs {needed}, the fleet has {room}, but not in pieces that whole units and the constraints fit"


def _needed_bytes(problem: Problem) -> int:
    """The least all units can take: with both ends on one device when they share their weights."""
    return problem.chain_bytes - problem.tied_bytes


def _room_bytes(problem: Problem) -> int:
    return sum(room for _, room in _rooms(problem))


def _short_bytes(problem: Problem) -> int:
    return _needed_bytes(problem) - _room_bytes(problem)


def _lifted_constraints(problem: Problem) -> Iterator[str]:
    """What a person could take back: one refusal, cap or pin at a time."""
    rules = problem.constraints
    for device in problem.devices:
        why = rules.refusal(device)
        if why is not None:
            admitted = replace(device, battery_percent=None)
            open_rules = replace(rules, exclude=rules.exclude - {device.name})
            changed = _replaced(replace(problem, constraints=open_rules), admitted)
            if is_feasible(changed):
                yield f"let {device.name!r} take part ({why})"
    for limit in rules.limits:
        if is_feasible(_ruled(problem, replace(rules, limits=tuple(one for one in rules.limits if one != limit)))):
            yield f"lift the limit on {limit.node!r}"
    for said, undo in dict.fromkeys((pin.said, pin.undo) for pin in rules.pins):
        if is_feasible(_ruled(problem, replace(rules, pins=tuple(pin for pin in rules.pins if pin.said != said)))):
            yield f"drop {said}" + (f": {undo}" if undo else "")


def _ruled(problem: Problem, constraints: Constraints) -> Problem:
    return replace(problem, constraints=constraints)


def _replaced(problem: Problem, *changed: Device) -> Problem:
    """The problem with devices of these names exchanged for these."""
    new = {device.name: device for device in changed}
    return replace(problem, devices=tuple(new.get(device.name, device) for device in problem.devices))


def _with_memory(problem: Problem, device: Device, extra_bytes: int) -> Problem:
    return _replaced(problem, replace(device, memory_bytes=device.memory_bytes + extra_bytes))


def _with_storage(problem: Problem, device: Device, extra_bytes: int) -> Problem:
    if device.storage_bytes is None:
        return problem
    return _replaced(problem, replace(device, storage_bytes=device.storage_bytes + extra_bytes))


def _least_extra(problem: Problem, give: Callable[[Problem, Device, int], Problem]) -> tuple[Device | None, int]:
    """The device on which the fewest extra bytes make a plan possible, and how many; (None, 0) if none does."""
    best: tuple[Device | None, int] = (None, 0)
    most = _needed_bytes(problem) + max(problem.fixed_bytes(device) for device in problem.devices)
    for device in sorted(problem.eligible, key=lambda one: -one.memory_bytes)[:DEVICES_TRIED]:
        limit = best[1] if best[0] is not None else most + max(0, -device.memory_bytes)
        if limit < 1 or not is_feasible(give(problem, device, limit)):
            continue
        extra = _least(0, limit, functools.partial(_works_with, problem, give, device))
        if best[0] is None or extra < best[1]:
            best = (device, extra)
    return best


def _works_with(
    problem: Problem, give: Callable[[Problem, Device, int], Problem], device: Device, extra_bytes: int
) -> bool:
    return is_feasible(give(problem, device, extra_bytes))


def _smaller_cache(problem: Problem) -> list[str]:
    """Fewer slots, a shorter context, or both where neither is enough."""
    fixes = []
    context, slots = problem.context_tokens, problem.slots

    def fits(context_tokens: int, slots: int) -> bool:
        return is_feasible(problem.with_caches(context_tokens, slots))

    if slots > 1 and fits(context, 1):
        fixes.append(f"serve {_most(1, slots, lambda count: fits(context, count))} at once instead of {slots}")
    if context > 1 and fits(1, slots):
        tokens = _most(1, context, lambda count: fits(count, slots))
        fixes.append(f"reduce the context from {context} to {tokens} tokens")
    both = None if fixes else largest_caches(replace(problem, least_context_tokens=1, least_slots=1))
    if both:
        was = f"instead of {slots} with {context}"
        fixes.append(f"serve {both.slots} at once with {both.context_tokens} tokens of context {was}")
    return fixes


def _new_device(problem: Problem) -> int | None:
    """Usable bytes that one more device like the largest needs; None when even one that holds all does not help."""
    model = max(problem.devices, key=lambda device: device.memory_bytes)
    most = _needed_bytes(problem) + problem.fixed_bytes(model)

    def works(size: int) -> bool:
        name = model.name + "+"
        new = replace(model, name=name, memory_bytes=size, storage_bytes=None, battery_percent=None)
        return is_feasible(replace(problem, devices=(*problem.devices, new)))

    return _least(0, most, works) if works(most) else None


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest whole number in (low, high] for which a monotone condition holds; it holds for `high`."""
    numbers = range(low + 1, high + 1)
    return numbers[first_that(numbers, holds)]


def _most(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest whole number in [low, high) for which a falling condition holds; it holds for `low`."""
    return _least(low, high, lambda number: not holds(number)) - 1


def shortage_text(answer: Infeasible) -> str:
    """What is missing, what each device has, and the smallest changes that help; one line."""
    rooms = ", ".join(f"{name} {size_text(room)}" for name, room in answer.rooms[:DEVICES_TRIED])
    more = ", ..." if len(answer.rooms) > DEVICES_TRIED else ""
    has = f" ({rooms}{more})" if answer.missing_bytes and len(answer.rooms) > 1 else ""
    fixes = ", or ".join(answer.fixes[:2]) or answer.smallest_fix
    return f"{answer.reason}{has}; {fixes}".rstrip("; ")
