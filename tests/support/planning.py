"""Random planning problems and the best plan by trying every one, from the formulas in docs/planning.md.

Written apart from the planner on purpose: it shares the data types and nothing else.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.planning.problem import Constraints, Device, NodeLimit, Objective, Pin, Problem, Stage
from orchestrator.planning.unit_run import UnitRun

MIB = 2**20


def random_problem(seed: int, *, max_devices: int = 5, max_units: int = 10, uneven_chain: bool = False) -> Problem:
    """A small problem: uneven devices and memory, now and then tied ends, pins, caps, storage limits, batching."""
    draw = random.Random(seed)
    units = draw.randint(3, max_units)
    if uneven_chain:
        runs = _uneven_runs(draw, units)
    else:
        runs = (
            UnitRun("embed", 0, 1, draw.randint(10, 60) * MIB, 0, 1e3, draw.randint(10, 60) * MIB),
            UnitRun("block", 1, units - 2, draw.randint(10, 30) * MIB, draw.randint(0, 2) * 1024, 1e9),
            UnitRun("head", units - 1, 1, draw.randint(10, 60) * MIB, 0, 3e9),
        )
    total_mib = sum(run.count * run.weight_bytes for run in runs) // MIB
    count = draw.randint(1, max_devices)
    devices = [_device(draw, f"n{index}", len(runs), total_mib, count) for index in range(count)]
    if count > 1 and draw.random() < 0.25:
        devices[-1] = replace(devices[0], name=devices[-1].name)
    tied = draw.choice((0, min(runs[0].weight_bytes, runs[-1].weight_bytes)))
    problem = Problem(
        runs=runs,
        devices=tuple(devices),
        context_tokens=draw.choice((256, 1024)),
        slots=draw.choice((1, 2)),
        streams=draw.choice((None, None, 1, 2, 5)),
        tied_bytes=tied,
        tied_disk_bytes=draw.choice((None, 0)),
        workspace_bytes=draw.choice((0, 3 * MIB)),
        activation_bytes=1152,
        balanced_tolerance=draw.choice((0.0, 0.1, 0.5)),
        constraints=_constraints(draw, [device.name for device in devices], units, uneven_chain),
    )
    return replace(problem, second_stage_bytes=problem.workspace_bytes // 3)


def _uneven_runs(draw: random.Random, units: int) -> tuple[UnitRun, ...]:
    runs, at = [], 0
    while at < units:
        count = min(draw.randint(1, 3), units - at)
        kind = "embed" if at == 0 else "head" if at + count == units else "block"
        runs.append(
            UnitRun(kind, at, count, draw.randint(5, 40) * MIB, draw.randint(0, 2) * 512, draw.uniform(1e8, 1e9))
        )
        at += count
    return tuple(runs)


def _device(draw: random.Random, name: str, runs: int, total_mib: int, fleet: int) -> Device:
    speed = draw.choice((0.25, 0.5, 1.0, draw.uniform(0.2, 2.0)))
    decode = tuple(draw.uniform(1e-3, 8e-3) / speed for _ in range(runs))
    memory_mib = total_mib * draw.uniform(0.5, 2.2) / min(fleet, 3) + 20
    return Device(
        name=name,
        memory_bytes=int(memory_mib * MIB),
        decode_s=decode,
        prefill_s=tuple(figure / 4 for figure in decode),
        decode_batched_s=draw.choice((None, tuple(figure * draw.uniform(0.4, 1.0) for figure in decode))),
        hop_s=draw.choice((0.0, 0.001, 0.004, draw.uniform(0, 0.02))),
        hop_busy_s=draw.choice((0.0, 0.0005)),
        link_bytes_per_s=5e6,
        storage_bytes=draw.choice((None, int(total_mib * draw.uniform(0.4, 1.2)) * MIB)),
        runtime_overhead_bytes=draw.choice((0, 10 * MIB)),
        flops_per_s=draw.choice((None, draw.uniform(1e11, 1e12))),
    )


def _constraints(draw: random.Random, names: list[str], units: int, anywhere: bool) -> Constraints:
    pins: list[Pin] = []
    limits: tuple[NodeLimit, ...] = ()
    if draw.random() < 0.15:
        pins.append(Pin(draw.choice(names), 0, draw.randint(1, 2)))
    if draw.random() < 0.15:
        pins.append(Pin(draw.choice(names), units - 1, units))
    if anywhere and units > 4 and draw.random() < 0.3:
        pins.append(Pin(draw.choice(names), 2, draw.randint(3, units - 2)))
    if draw.random() < 0.2:
        limits = (NodeLimit(draw.choice(names), max_units=draw.randint(1, units)),)
    owners: dict[int, str] = {}
    clean = [pin for pin in pins if all(owners.setdefault(u, pin.node) == pin.node for u in range(pin.start, pin.stop))]
    return Constraints(pins=tuple(clean), limits=limits)


@dataclass(frozen=True)
class Tried:
    """One allowed plan: seconds per token, bottleneck, LinguaLinked's value (infinite when it has no such plan)."""

    latency_s: float
    bottleneck_s: float
    paper_s: float


@dataclass(frozen=True)
class Best:
    """The least objective value, and the tie-break's value among plans that reach it."""

    value_s: float
    tie_break_s: float


def every_plan(problem: Problem) -> Iterator[tuple[Stage, ...]]:
    """Every contiguous plan in every order, rings with both ends on one node included."""
    names = [device.name for device in problem.devices]
    units = problem.unit_count
    for size in range(1, len(names) + 1):
        for order in itertools.permutations(names, size):
            for cuts in itertools.combinations(range(1, units), size - 1):
                edges = (0, *cuts, units)
                yield tuple(Stage(node, edges[i], edges[i + 1]) for i, node in enumerate(order))
            if size > 1:
                for cuts in itertools.combinations(range(1, units), size):
                    edges = (0, *cuts)
                    ring = [Stage(node, edges[i], edges[i + 1]) for i, node in enumerate(order)]
                    yield (*ring, Stage(order[0], edges[-1], units))


def _tail_start(problem: Problem, node: str) -> int:
    owner = {unit: pin.node for pin in problem.constraints.pins for unit in range(pin.start, pin.stop)}
    tail = problem.unit_count - 1
    while tail > 1 and owner.get(tail) == node and owner.get(tail - 1) == node:
        tail -= 1
    return tail


def every_share(problem: Problem) -> Iterator[tuple[Stage, ...]]:
    """One plan for each way to give like blocks and ends to devices: enough where the order does not matter."""
    names = [device.name for device in problem.devices]
    blocks = problem.unit_count - 2
    for shares in itertools.combinations_with_replacement(range(blocks + 1), len(names) - 1):
        edges = (0, *shares, blocks)
        counts = {name: edges[i + 1] - edges[i] for i, name in enumerate(names)}
        for first in names:
            for last in names:
                yield _ring(counts, first, last, problem)


def _ring(counts: dict[str, int], first: str, last: str, problem: Problem) -> tuple[Stage, ...]:
    units = problem.unit_count
    middle = [name for name, count in counts.items() if count and name not in (first, last)]
    if first == last and not middle:
        return (Stage(first, 0, units),)
    tail = _tail_start(problem, first) if first == last else units - 1 - counts[last]
    front = 1 + counts[first] - (units - 1 - tail if first == last else 0)
    if front < 1:
        return ()
    stages = [Stage(first, 0, front)]
    for name in middle:
        stages.append(Stage(name, stages[-1].stop, stages[-1].stop + counts[name]))
    return (*stages, Stage(last, tail, units))


class Exhaustive:
    """Judges plans one by one."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.device = {device.name: device for device in problem.devices}
        run_of = [run for run in problem.runs for _ in range(run.count)]
        index_of = [index for index, run in enumerate(problem.runs) for _ in range(run.count)]
        kv = problem.context_tokens * problem.slots
        self.memory = _sums([run.weight_bytes + run.kv_bytes_per_token * kv for run in run_of])
        self.disk = _sums([run.weight_bytes if run.disk_bytes is None else run.disk_bytes for run in run_of])
        self.seconds, self.busy, self.paper = {}, {}, {}
        total_flops = sum(run.flops_per_token for run in run_of)
        for name, device in self.device.items():
            batched = device.decode_batched_s or device.decode_s
            self.seconds[name] = _sums([device.decode_s[index] for index in index_of])
            self.busy[name] = _sums([batched[index] for index in index_of])
            speed = device.flops_per_s or total_flops / self.seconds[name][-1]
            self.paper[name] = _sums([run.flops_per_token / speed for run in run_of])
        self.owner = {u: pin.node for pin in problem.constraints.pins for u in range(pin.start, pin.stop)}

    def judge(self, stages: tuple[Stage, ...]) -> Tried | None:
        """The plan's figures, or None when it breaks a limit."""
        problem = self.problem
        held: dict[str, list[Stage]] = {}
        for stage in stages:
            held.setdefault(stage.node, []).append(stage)
        if any(not any(s.start <= unit < s.stop for s in held.get(node, ())) for unit, node in self.owner.items()):
            return None
        ring = len(held) > 1
        latency = bottleneck = paper = 0.0
        for node, mine in held.items():
            device = self.device[node]
            both = stages[0].node == stages[-1].node == node
            again = (len(mine) - 1) * problem.second_stage_bytes
            resident = _span(self.memory, mine) + self._fixed(device) + again - (problem.tied_bytes if both else 0)
            if resident > device.memory_bytes:
                return None
            tied_disk = problem.tied_bytes if problem.tied_disk_bytes is None else problem.tied_disk_bytes
            disk = _span(self.disk, mine) - (tied_disk if both else 0)
            if device.storage_bytes is not None and disk > device.storage_bytes:
                return None
            most = next((limit.max_units for limit in problem.constraints.limits if limit.node == node), None)
            if most is not None and sum(stage.stop - stage.start for stage in mine) > most:
                return None
            latency += _span(self.seconds[node], mine) + (device.hop_s if ring else 0.0)
            bottleneck = max(bottleneck, _span(self.busy[node], mine) + (device.hop_busy_s if ring else 0.0))
            paper += _span(self.paper[node], mine)
        if len(stages) > len(held):
            paper = math.inf
        links = itertools.pairwise(stages)
        paper += sum((self.device[a.node].hop_s + self.device[b.node].hop_s) / 2 for a, b in links)
        return Tried(latency, bottleneck, paper)

    def _fixed(self, device: Device) -> int:
        return device.runtime_overhead_bytes + device.live_move_bytes + self.problem.workspace_bytes


def _sums(figures: list[float]) -> list[float]:
    return [0, *itertools.accumulate(figures)]


def _span(sums: list[float], stages: list[Stage]) -> float:
    return sum(sums[stage.stop] - sums[stage.start] for stage in stages)


def try_all(problem: Problem, plans: Iterator[tuple[Stage, ...]]) -> list[Tried]:
    judge = Exhaustive(problem).judge
    return [tried for stages in plans if stages and (tried := judge(stages)) is not None]


def best_of(problem: Problem, objective: Objective, tried: list[Tried]) -> Best | None:
    """The exhaustive optimum of one objective, or None when nothing is allowed."""
    near = 1 + 1e-9
    if objective is Objective.PAPER:
        least = min((plan.paper_s for plan in tried), default=math.inf)
        return None if least == math.inf else Best(least, 0.0)
    if not tried:
        return None
    if objective is Objective.THROUGHPUT:
        streams = problem.streams

        def value(plan: Tried) -> float:
            return plan.bottleneck_s if streams is None else max(plan.bottleneck_s, plan.latency_s / streams)

        least = min(value(plan) for plan in tried)
        return Best(least, min(plan.latency_s for plan in tried if value(plan) <= least * near))
    least = min(plan.latency_s for plan in tried)
    if objective is Objective.LATENCY:
        return Best(least, min(plan.bottleneck_s for plan in tried if plan.latency_s <= least * near))
    allowed = least * max(near, 1 + problem.balanced_tolerance)
    shortest = min(plan.bottleneck_s for plan in tried if plan.latency_s <= allowed)
    within = [plan for plan in tried if plan.latency_s <= allowed and plan.bottleneck_s <= shortest * near]
    return Best(shortest, min(plan.latency_s for plan in within))
