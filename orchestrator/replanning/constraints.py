"""What an operator wants of plans: an objective and constraints, from a command's arguments and back (pure)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.fleet.health import Condition
from orchestrator.planning.errors import BadConstraint
from orchestrator.planning.problem import Constraints, Device, NodeLimit, Objective, Pin
from schemas.limits import MAX_CONTEXT_TOKENS, MIN_CONTEXT_TOKENS
from schemas.names import is_name
from schemas.units import EMBED, HEAD

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_MB = 10**6
_MOST = 256


@dataclass(frozen=True)
class PlanConstraints:
    """``pins`` are (units, node) with units as `parse_units` reads them, ``max_memory_mb`` is (node, MB)."""

    objective: str = Objective.LATENCY.value
    exclude: tuple[str, ...] = ()
    pins: tuple[tuple[str, str], ...] = ()
    max_memory_mb: tuple[tuple[str, int], ...] = ()
    context_tokens: int | None = None
    min_battery_percent: float | None = None
    only_on_charger: bool = False

    def as_arguments(self) -> dict[str, Any]:
        """JSON-able; `constraints_from` reads it."""
        return asdict(self)

    @property
    def goal(self) -> Objective:
        return Objective(self.objective)

    def constraints(self, unit_count: int) -> Constraints:
        """For a model of so many units.

        Raises:
            BadConstraint: a pin names units that the model does not have.
        """
        pins = [Pin(node, *units) for text, node in self.pins for units in parse_units(text, unit_count)]
        limits = (NodeLimit(node, max_memory_bytes=mb * _MB) for node, mb in self.max_memory_mb)
        return replace(self._battery_rules, pins=tuple(pins), exclude=frozenset(self.exclude), limits=tuple(limits))

    @property
    def _battery_rules(self) -> Constraints:
        return Constraints(min_battery_percent=self.min_battery_percent, only_on_charger=self.only_on_charger)

    def refusal(self, node: str, condition: Condition) -> str | None:
        """Why the rules about batteries leave this node out, or None."""
        device = Device(node, 0, (), (), 0.0, battery_percent=condition.battery_percent, charging=condition.charging)
        return self._battery_rules.refusal(device)


def parse_units(text: str, unit_count: int) -> list[tuple[int, int]]:
    """``embed``, ``head``, ``ends`` (both) or decoder blocks, ``7`` or ``0-9``, as half-open ranges of units.

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


def constraints_from(arguments: dict[str, Any]) -> PlanConstraints:
    """From a command's arguments, which anybody may have written.

    Raises:
        BadConstraint: one line that names the argument.
    """
    unknown = arguments.keys() - PlanConstraints.__dataclass_fields__.keys()
    if unknown:
        raise BadConstraint(f"there is no argument {min(unknown)[:64]!a} of a plan")
    goals = [goal.value for goal in Objective]
    objective = arguments.get("objective", Objective.LATENCY.value)
    if objective not in goals:
        raise BadConstraint(f"objective: use one of {', '.join(goals)}")
    context = arguments.get("context_tokens")
    if context is not None and not _is_count(context, MIN_CONTEXT_TOKENS, MAX_CONTEXT_TOKENS):
        raise BadConstraint(f"context_tokens: use a number from {MIN_CONTEXT_TOKENS} to {MAX_CONTEXT_TOKENS}")
    battery = arguments.get("min_battery_percent")
    if battery is not None and not _is_percent(battery):
        raise BadConstraint("min_battery_percent: use a number from 0 to 100")
    only_on_charger = arguments.get("only_on_charger", False)
    if not isinstance(only_on_charger, bool):
        raise BadConstraint("only_on_charger: use true or false")
    exclude = _items(arguments, "exclude")
    if not all(_is_node(node) for node in exclude):
        raise BadConstraint("exclude: use names of nodes")
    pins = [pair for pair in _items(arguments, "pins") if _is_pair(pair) and isinstance(pair[0], str)]
    limits = [pair for pair in _items(arguments, "max_memory_mb") if _is_limit(pair)]
    if len(pins) != len(_items(arguments, "pins")) or not all(_is_node(node) for _, node in pins):
        raise BadConstraint("pins: use pairs of units and a node's name")
    if len(limits) != len(_items(arguments, "max_memory_mb")):
        raise BadConstraint("max_memory_mb: use pairs of a node's name and MB")
    return PlanConstraints(
        objective=objective,
        exclude=tuple(exclude),
        pins=tuple((units, node) for units, node in pins),
        max_memory_mb=tuple((node, size_mb) for node, size_mb in limits),
        context_tokens=context,
        min_battery_percent=battery,
        only_on_charger=only_on_charger,
    )


def _items(arguments: dict[str, Any], name: str) -> list[Any]:
    value = arguments.get(name, [])
    if not isinstance(value, list | tuple) or len(value) > _MOST:
        raise BadConstraint(f"{name}: use a list of {_MOST} at most")
    return list(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _is_node(value: Any) -> bool:
    return isinstance(value, str) and is_name(value)


def _is_limit(value: Any) -> bool:
    return _is_pair(value) and _is_node(value[0]) and _is_count(value[1], 1, 2**30)


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
