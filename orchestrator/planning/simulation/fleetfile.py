"""Reads a fleet from YAML: a model, devices, what to plan for, a workload and events. See docs/planning.md.

Everything wrong is said in one line that names the place: `fleet.yaml: devices[2].memory_mb: must be above 0`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

import yaml

from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import (
    Constraints,
    Device,
    NodeLimit,
    Objective,
    Pin,
    Problem,
    UnitRun,
)
from orchestrator.planning.simulation.scenario import FleetEvent, Workload
from orchestrator.planning.simulation.sections import Section
from schemas.units import BLOCK, EMBED, HEAD

MB = 10**6
MOST_OF_A_KIND = 10_000


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
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise PlanningError(f"{name}: not YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}") from error
    top = Section(document, name, "")
    model = top.section("model")
    runs, tied_bytes, hidden_bytes = _model(model)
    devices = tuple(device for section in top.sections("devices") for device in _devices(section))
    plan = top.section("plan", optional=True)
    try:
        problem = _problem(plan, runs, devices, tied_bytes, hidden_bytes)
    except PlanningError as error:
        raise error if str(error).startswith(name) else PlanningError(f"{name}: {error}") from error
    replicas = plan.flag("replicas", False)
    plan.end()
    workload = _workload(top.section("workload", optional=True))
    names = {device.name for device in devices}
    events = tuple(_event(section, names) for section in top.sections("events", optional=True))
    top.end()
    return Fleet(name, problem, workload, events, replicas)


def _model(section: Section) -> tuple[tuple[UnitRun, ...], int, int]:
    """Runs, bytes saved by tied ends, bytes of one hidden state on the wire."""
    blocks = section.whole("blocks", least=1)
    runs, at = [], 0
    for kind, count in ((EMBED, 1), (BLOCK, blocks), (HEAD, 1)):
        part = section.section("block" if kind == BLOCK else kind)
        memory = part.number("memory_mb")
        runs.append(
            UnitRun(
                kind=kind,
                start=at,
                count=count,
                weight_bytes=round(memory * MB),
                kv_bytes_per_token=part.whole("kv_bytes_per_token", 0),
                flops_per_token=part.number("mflops_per_token", 0.0) * 1e6,
                disk_bytes=round(part.number("disk_mb", memory) * MB),
            )
        )
        part.end()
        at += count
    tied = round(section.number("tied_mb", 0.0) * MB)
    hidden = section.whole("hidden_bytes", 0)
    section.text("name", "model")
    section.end()
    return tuple(runs), tied, hidden


def _devices(section: Section) -> list[Device]:
    """One entry of the list: a device, or `count` of them with numbered names."""
    name, count = section.text("name"), section.whole("count", 1, least=1)
    if count > MOST_OF_A_KIND:
        raise section.wrong("count", f"must be at most {MOST_OF_A_KIND}")
    block_s = section.number("block_ms", above=0) / 1e3
    decode_s = (section.number("embed_ms", 0.0) / 1e3, block_s, section.number("head_ms", 0.0) / 1e3)
    prefill = section.number("prefill_speedup", 4.0, above=0)
    batched = section.maybe("batch_speedup", above=0)
    link = section.maybe("link_mbit_per_s", above=0)
    storage = section.maybe("storage_mb")
    gflops = section.maybe("gflops", above=0)
    device = Device(
        name=name,
        memory_bytes=round(section.number("memory_mb") * MB),
        decode_s=decode_s,
        prefill_s=tuple(figure / prefill for figure in decode_s),
        hop_s=section.number("hop_ms", 0.0) / 1e3,
        storage_bytes=None if storage is None else round(storage * MB),
        decode_batched_s=None if batched is None else tuple(figure / batched for figure in decode_s),
        hop_busy_s=section.number("hop_busy_ms", 0.0) / 1e3,
        link_bytes_per_s=math.inf if link is None else link * 1e6 / 8,
        runtime_overhead_bytes=round(section.number("overhead_mb", 0.0) * MB),
        live_move_bytes=round(section.number("live_move_mb", 0.0) * MB),
        flops_per_s=None if gflops is None else gflops * 1e9,
        battery_percent=section.maybe("battery_percent"),
        charging=section.flag("charging", True),
    )
    section.end()
    if count == 1:
        return [device]
    width = len(str(count))
    values = {entry.name: getattr(device, entry.name) for entry in fields(device) if entry.name != "name"}
    return [Device(name=f"{name}-{index:0{width}d}", **values) for index in range(1, count + 1)]


def _problem(
    plan: Section, runs: tuple[UnitRun, ...], devices: tuple[Device, ...], tied_bytes: int, hidden_bytes: int
) -> Problem:
    wanted = plan.text("objective", Objective.LATENCY.value)
    if wanted not in {objective.value for objective in Objective}:
        raise plan.wrong("objective", f"must be one of {', '.join(objective.value for objective in Objective)}")
    return Problem(
        runs=runs,
        devices=devices,
        context_tokens=plan.whole("context_tokens", 2048, least=1),
        slots=plan.whole("slots", 1, least=1),
        objective=Objective(wanted),
        streams=plan.maybe_whole("streams", least=1),
        constraints=_constraints(plan.section("constraints", optional=True)),
        activation_bytes=hidden_bytes,
        workspace_bytes=round(plan.number("workspace_mb", 0.0) * MB),
        tied_bytes=tied_bytes,
        prompt_tokens=plan.whole("prompt_tokens", 128, least=1),
        prefill_chunk_tokens=plan.whole("prefill_chunk_tokens", 64, least=1),
        balanced_tolerance=plan.number("balanced_tolerance", 0.05),
        time_limit_s=plan.number("time_limit_s", 10.0, above=0),
    )


def _constraints(section: Section) -> Constraints:
    pins, limits = [], []
    for pin in section.sections("pins", optional=True):
        pins.append(Pin(pin.text("node"), pin.whole("start"), pin.whole("stop", least=1)))
        pin.end()
    for limit in section.sections("limits", optional=True):
        memory = limit.maybe("max_memory_mb")
        limits.append(
            NodeLimit(
                limit.text("node"),
                max_units=limit.maybe_whole("max_units"),
                max_share=limit.maybe("max_share"),
                max_memory_bytes=None if memory is None else round(memory * MB),
            )
        )
        limit.end()
    constraints = Constraints(
        pins=tuple(pins),
        exclude=frozenset(section.texts("exclude")),
        limits=tuple(limits),
        min_battery_percent=section.maybe("min_battery_percent"),
        only_on_charger=section.flag("only_on_charger", False),
    )
    section.end()
    return constraints


def _workload(section: Section) -> Workload:
    arrivals = section.maybe("arrivals_per_s", above=0)
    duration = section.number("duration_s", 60.0, above=0)
    warmup = section.number("warmup_s", 0.0)
    if warmup >= duration:
        raise section.wrong("warmup_s", "must be less than duration_s")
    workload = Workload(
        streams=section.whole("streams", 1, least=1),
        arrivals_per_s=arrivals,
        prompt_tokens=section.whole("prompt_tokens", 128, least=1),
        answer_tokens=section.whole("answer_tokens", 64, least=1),
        duration_s=duration,
        warmup_s=warmup,
        seed=section.whole("seed", 0),
        jitter=section.number("jitter", 0.0),
        reload_s=section.number("reload_s", 2.0),
        balance_every_s=section.number("balance_every_s", 1.0, above=0),
    )
    section.end()
    return workload


def _event(section: Section, names: set[str]) -> FleetEvent:
    device = section.text("device")
    if device not in names:
        raise section.wrong("device", f"no device named {device!r}")
    leaves, joins = section.flag("leaves", False), section.flag("joins", False)
    speed = section.maybe("speed", above=0)
    if leaves + joins + (speed is not None) != 1:
        raise section.wrong("", "needs exactly one of speed, leaves, joins")
    event = FleetEvent(section.number("at_s"), device, speed, True if joins else False if leaves else None)
    section.end()
    return event
