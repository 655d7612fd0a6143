"""An operator's constraints on plans, for the planner (pure)."""

from __future__ import annotations

import re
from dataclasses import replace

from orchestrator.fleet.health import Condition
from orchestrator.planning.errors import BadConstraint
from orchestrator.planning.problem import Constraints, Device, NodeLimit, Pin
from schemas.limits import MB
from schemas.messages import PlanConstraints
from schemas.units import EMBED, HEAD

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def planner_constraints(wanted: PlanConstraints, unit_count: int) -> Constraints:
    """The constraints for a model of so many units.

    Raises:
        BadConstraint: a pin names units that the model does not have.
    """
    pins = [pin for asked in wanted.pins for pin in _pins(asked, wanted, unit_count)]
    limits = (NodeLimit(node, max_memory_bytes=mb * MB) for node, mb in wanted.max_memory_mb)
    return replace(_battery_rules(wanted), pins=tuple(pins), exclude=frozenset(wanted.exclude), limits=tuple(limits))


def _pins(asked: tuple[str, str], wanted: PlanConstraints, unit_count: int) -> list[Pin]:
    """The pins that an operator has asked for at once."""
    text, node = asked
    option = f"--pin {text}={node}"
    try:
        ranges = parse_units(text, unit_count)
    except BadConstraint as error:
        raise BadConstraint(f"{option}: {error}") from None
    undo = apply_command(replace(wanted, pins=tuple(pin for pin in wanted.pins if pin != asked)))
    return [Pin(node, *units, asked=option, undo=undo) for units in ranges]


def apply_command(wanted: PlanConstraints) -> str:
    """The command after which these constraints are remembered, and no others."""
    options = [] if wanted.objective == PlanConstraints().objective else [f"--objective {wanted.objective}"]
    options += [f"--exclude {node}" for node in wanted.exclude]
    options += [f"--pin {text}={node}" for text, node in wanted.pins]
    options += [f"--max-memory {node}={mb}" for node, mb in wanted.max_memory_mb]
    if wanted.min_battery_percent is not None:
        options.append(f"--min-battery {wanted.min_battery_percent:g}")
    if wanted.only_on_charger:
        options.append("--only-on-charger")
    if wanted.context_tokens is not None:
        options.append(f"--context {wanted.context_tokens}")
    return " ".join(("linguabus plan apply", *options))


def named_nodes(wanted: PlanConstraints) -> tuple[str, ...]:
    """All nodes that the constraints name."""
    return (*wanted.exclude, *(node for _, node in wanted.pins), *(node for node, _ in wanted.max_memory_mb))


def _battery_rules(wanted: PlanConstraints) -> Constraints:
    return Constraints(min_battery_percent=wanted.min_battery_percent, only_on_charger=wanted.only_on_charger)


def refusal(wanted: PlanConstraints, node: str, condition: Condition) -> str | None:
    """Why the rules about batteries leave this node out, or None."""
    device = Device(node, 0, (), (), 0.0, battery_percent=condition.battery_percent, charging=condition.charging)
    return _battery_rules(wanted).refusal(device)


def parse_units(text: str, unit_count: int) -> list[tuple[int, int]]:
    """Read ``embed``, ``head``, ``ends`` (both) or decoder blocks, ``7`` or ``0-9``, as half-open ranges of units.

    Raises:
        BadConstraint: not one of these, or blocks that the model does not have.
    """
    last = unit_count - 1
    named = {EMBED: [(0, 1)], HEAD: [(last, last + 1)], "ends": [(0, 1), (last, last + 1)]}
    if text in named:
        return named[text]
    found = _RANGE.fullmatch(text)
    if not found:
        raise BadConstraint(f"{text!r} is no range of units: use embed, head, ends, or blocks such as 0-9")
    first, final = int(found[1]), int(found[2] or found[1])
    if not first <= final <= last - 2:
        raise BadConstraint(f"there are no blocks {text}: the model has blocks 0-{last - 2}")
    return [(first + 1, final + 2)]
