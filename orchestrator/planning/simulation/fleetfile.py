"""Reads a fleet from YAML: a model, devices, what to plan for, a workload and events. See docs/planning.md.

Everything wrong is said in one line that names the place: `fleet.yaml: devices[2].memory_mb: must be above 0`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import (
    Constraints,
    Device,
    NodeLimit,
    Objective,
    Pin,
    Problem,
)
from orchestrator.planning.simulation.fleet_document import (
    ConstraintsSection,
    DeviceSection,
    EventSection,
    FleetDocument,
    ModelSection,
    UnitSection,
    WorkloadSection,
)
from orchestrator.planning.simulation.scenario import FleetEvent, Workload
from orchestrator.planning.unit_run import UnitRun
from schemas import contract
from schemas.errors import MemberError, UnknownMember
from schemas.limits import MB
from schemas.names import nearest
from schemas.units import BLOCK, EMBED, HEAD


@dataclass(frozen=True)
class Fleet:
    """A fleet file: the planner's question, what to play, and whether to plan several pipelines."""

    name: str
    problem: Problem
    workload: Workload
    events: tuple[FleetEvent, ...]
    replicas: bool


def shipped_fleets() -> dict[str, str]:
    """Name and text of the example fleets that come with the package."""
    folder = files("orchestrator.planning") / "fleets"
    found = {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {name: found[name].read_text("utf-8") for name in sorted(found)}


def load_fleet(source: str) -> Fleet:
    """A fleet from a file, or one that is shipped, by name.

    Raises:
        PlanningError: there is no such file, or something in it is wrong.
    """
    path = Path(source)
    if path.is_file():
        try:
            return parse_fleet(path.read_text("utf-8"), path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise PlanningError(f"{source}: can't be read: {error}") from error
    shipped = shipped_fleets()
    if source in shipped:
        return parse_fleet(shipped[source], source)
    raise PlanningError(f"no fleet file {source!r}: give a YAML file or one of {', '.join(shipped)}")


def parse_fleet(text: str, name: str) -> Fleet:
    """A fleet from YAML text; `name` is what errors call it.

    Raises:
        PlanningError: something in it is wrong.
    """
    try:
        return _fleet(name, contract.load(FleetDocument, _yaml(text)))
    except MemberError as error:
        raise PlanningError(f"{name}: {_said(error)}") from error
    except PlanningError as error:
        raise PlanningError(f"{name}: {error}") from error


class _Loader(yaml.SafeLoader):
    """The YAML loader of fleet files: keys are texts, and a key without a value counts as left out."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        return {str(key): value for key, value in found.items() if value is not None}


def _yaml(text: str) -> object:
    try:
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise PlanningError(f"not YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}") from error
    except (ValueError, RecursionError) as error:  # a date that is none, a number that is too long
        raise PlanningError(f"not a fleet: {str(error).splitlines()[0]}") from error
    return {} if found is None else found


def _said(error: MemberError) -> str:
    """The error in the words of files: their members are keys, and the whole has no name."""
    place, problem = error.place, error.problem
    if isinstance(error, UnknownMember):
        place = f"{place}.{error.member}" if place else error.member
        problem = f"is not a key here; there are {', '.join(sorted(error.known))}"
    return f"{place}: {problem}" if place else problem


def _wrong(place: str, problem: str) -> PlanningError:
    return PlanningError(f"{place}: {problem}")


def _fleet(name: str, document: FleetDocument) -> Fleet:
    model, plan = document.model, document.plan
    devices = tuple(device for section in document.devices for device in _devices(section))
    problem = Problem(
        runs=_runs(model),
        devices=devices,
        context_tokens=plan.context_tokens,
        slots=plan.slots,
        objective=Objective(plan.objective),
        streams=plan.streams,
        constraints=_constraints(plan.constraints),
        activation_bytes=model.hidden_bytes,
        workspace_bytes=_bytes(plan.workspace_mb),
        tied_bytes=_bytes(model.tied_mb),
        prompt_tokens=plan.prompt_tokens,
        prefill_chunk_tokens=plan.prefill_chunk_tokens,
        balanced_tolerance=plan.balanced_tolerance,
        time_limit_s=plan.time_limit_s,
    )
    names = {device.name for device in devices}
    _check_names(problem.constraints, names)
    events = tuple(_event(section, f"events[{index}]", names) for index, section in enumerate(document.events))
    return Fleet(name, problem, _workload(document.workload), events, plan.replicas)


def _bytes(size_mb: float) -> int:
    return round(size_mb * MB)


def _runs(model: ModelSection) -> tuple[UnitRun, ...]:
    last = model.blocks + 1
    return (
        _run(EMBED, 0, 1, model.embed),
        _run(BLOCK, 1, model.blocks, model.block),
        _run(HEAD, last, 1, model.head),
    )


def _run(kind: str, start: int, count: int, unit: UnitSection) -> UnitRun:
    return UnitRun(
        kind=kind,
        start=start,
        count=count,
        weight_bytes=_bytes(unit.memory_mb),
        kv_bytes_per_token=unit.kv_bytes_per_token,
        flops_per_token=unit.mflops_per_token * 1e6,
        disk_bytes=_bytes(unit.memory_mb if unit.disk_mb is None else unit.disk_mb),
    )


def _devices(section: DeviceSection) -> list[Device]:
    """One entry of the list: a device, or `count` of them with numbered names."""
    decode_s = (section.embed_ms / 1e3, section.block_ms / 1e3, section.head_ms / 1e3)
    batched, link, storage = section.batch_speedup, section.link_mbit_per_s, section.storage_mb
    device = Device(
        name=section.name,
        memory_bytes=_bytes(section.memory_mb),
        decode_s=decode_s,
        prefill_s=tuple(figure / section.prefill_speedup for figure in decode_s),
        hop_s=section.hop_ms / 1e3,
        storage_bytes=None if storage is None else _bytes(storage),
        decode_batched_s=None if batched is None else tuple(figure / batched for figure in decode_s),
        hop_busy_s=section.hop_busy_ms / 1e3,
        link_bytes_per_s=math.inf if link is None else link * 1e6 / 8,
        runtime_overhead_bytes=_bytes(section.overhead_mb),
        live_move_bytes=_bytes(section.live_move_mb),
        flops_per_s=None if section.gflops is None else section.gflops * 1e9,
        battery_percent=section.battery_percent,
        charging=section.charging,
    )
    if section.count == 1:
        return [device]
    width = len(str(section.count))
    return [replace(device, name=f"{section.name}-{index:0{width}d}") for index in range(1, section.count + 1)]


def _constraints(section: ConstraintsSection) -> Constraints:
    return Constraints(
        pins=tuple(Pin(pin.node, pin.start, pin.stop) for pin in section.pins),
        exclude=frozenset(section.exclude),
        limits=tuple(
            NodeLimit(
                limit.node,
                max_units=limit.max_units,
                max_share=limit.max_share,
                max_memory_bytes=None if limit.max_memory_mb is None else _bytes(limit.max_memory_mb),
            )
            for limit in section.limits
        ),
        min_battery_percent=section.min_battery_percent,
        only_on_charger=section.only_on_charger,
    )


def _check_names(constraints: Constraints, names: set[str]) -> None:
    """Raise for a constraint on a device that is not in the file."""
    pinned, limited = [pin.node for pin in constraints.pins], [limit.node for limit in constraints.limits]
    for key, named in (("pins", pinned), ("limits", limited), ("exclude", sorted(constraints.exclude))):
        for name in named:
            if name not in names:
                raise _wrong(f"plan.constraints.{key}", _no_device(name, names))


def _no_device(name: str, names: set[str]) -> str:
    near = nearest(name, names)
    return f"no device named {name!r}" + (f": did you mean {near!r}?" if near else "")


def _workload(section: WorkloadSection) -> Workload:
    if section.warmup_s >= section.duration_s:
        raise _wrong("workload.warmup_s", "must be less than duration_s")
    return Workload(**contract.members(section))


def _event(section: EventSection, place: str, names: set[str]) -> FleetEvent:
    if section.device not in names:
        raise _wrong(f"{place}.device", _no_device(section.device, names))
    if section.leaves + section.joins + (section.speed is not None) != 1:
        raise _wrong(place, "needs exactly one of speed, leaves, joins")
    alive = True if section.joins else False if section.leaves else None
    return FleetEvent(section.at_s, section.device, section.speed, alive)
