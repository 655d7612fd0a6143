"""The balancer on simulated fleets: calm in noise, quick after a step, no flapping, up with drift.

The first three parts play three phones event by event (`linguabus simulate` does the same). Every run is off by 20 %
(standard deviation), and so, once more, is every heartbeat's figure; by 10 % where a step has to be found and where 200
devices wander: that is still more than a node's smoothing leaves of 20 % per run.

The last part counts the steady state of 200 devices second by second from the planner's own figures instead of playing
every token. Their speeds wander for an hour. Pipelines pay for their moves by standing still; the oracle plans every
pipeline anew every second, knows the true speeds and pays nothing. Neither deals the devices out anew.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import Result, main, median_result, note

from orchestrator.balancing.balancer import with_slowness
from orchestrator.balancing.simulated import SimulatedBalancer
from orchestrator.planning.cost import holdings, load_s
from orchestrator.planning.problem import Device, Objective, Problem, Stage
from orchestrator.planning.simulation.scenario import (
    FleetEvent,
    NodeObservation,
    Observation,
    StageObservation,
    Workload,
)
from orchestrator.planning.simulation.simulate import Simulation
from orchestrator.planning.solution import Infeasible
from orchestrator.planning.solver.replicas import Rates, plan_replicas
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.stage_cost import stage_costs
from orchestrator.planning.unit_run import UnitRun
from schemas.messages import PROBE_BATCH

NOISE = 0.2
SLIGHT_NOISE = 0.1
MB = 10**6
BLOCKS = 30
RUNS = (
    UnitRun("embed", 0, 1, 60 * MB),
    UnitRun("block", 1, BLOCKS, 60 * MB, kv_bytes_per_token=2048),
    UnitRun("head", BLOCKS + 1, 1, 60 * MB),
)
STREAMS = 8
STEP_AT_S = 60.0
PERIODS_S = (2.0, 5.0, 10.0, 30.0, 60.0)
DEVICES = 200
WANDER = 0.3
"""Standard deviation of the logarithm of a device's speed in the long run."""
WANDER_S = 600.0
"""How long a device remembers its speed."""


def measure(quick: bool) -> list[Result]:
    """The balancer's decisions on simulated fleets."""
    seeds = range(1 if quick else 5)
    quiet_s, slow_s = (60.0, 80.0) if quick else (600.0, 120.0)
    return [
        *_noise(seeds, quiet_s),
        *_step(seeds, slow_s),
        *_oscillation(seeds, PERIODS_S[-1:] if quick else PERIODS_S, quiet_s),
        *_drift(24 if quick else DEVICES, 60 if quick else 3600),
    ]


# --- three phones, event by event -----------------------------------------------------------------------------


def _device(name: str, block_s: float, memory_mb: int) -> Device:
    decode_s = (block_s / 10, block_s, 3 * block_s)
    return Device(
        name=name,
        memory_bytes=memory_mb * MB,
        decode_s=decode_s,
        decode_batched_s=tuple(figure / 1.8 for figure in decode_s),
        prefill_s=tuple(figure / 5 for figure in decode_s),
        hop_s=0.004,
        hop_busy_s=0.0005,
        link_bytes_per_s=15e6,
        runtime_overhead_bytes=90 * MB,
    )


def _phones(objective: Objective) -> Problem:
    devices = tuple(_device(name, ms / 1e3, 1500) for name, ms in (("a", 2.0), ("b", 2.5), ("c", 3.0)))
    return Problem(RUNS, devices, context_tokens=1024, slots=STREAMS, objective=objective, activation_bytes=2048)


def _play(
    objective: Objective, duration_s: float, seed: int, events: Sequence[FleetEvent], noise: float = NOISE
) -> SimulatedBalancer:
    problem = _phones(objective)
    plan = solve(problem, prove=False)
    if isinstance(plan, Infeasible):
        raise RuntimeError(plan.reason)
    workload = Workload(
        streams=STREAMS if objective is Objective.THROUGHPUT else 1, answer_tokens=256, prompt_tokens=64,
        duration_s=duration_s, seed=seed, jitter=NOISE,
    )  # fmt: skip
    balancer = SimulatedBalancer([problem], noise=noise, seed=seed)
    Simulation([problem], [plan.stages], workload, events, balancer=balancer).run()
    return balancer


GOALS = (Objective.LATENCY, Objective.THROUGHPUT)


def _noise(seeds: Sequence[int], duration_s: float) -> list[Result]:
    moves = [
        float(len(_play(goal, duration_s, seed, ()).pipelines[0].moves_s)) for goal in GOALS for seed in seeds
    ]  # fmt: skip
    return [Result(f"moves by noise in {duration_s:g} s, most of {len(moves)} runs", max(moves), "moves", at_most=0.0)]


def _step(seeds: Sequence[int], duration_s: float) -> list[Result]:
    """Does a decision follow within 5 s, whichever device it is, as long as it has layers to give away?"""
    delays = []
    for goal in GOALS:
        slow = solve(_phones(goal), prove=False)
        assert not isinstance(slow, Infeasible)
        shares = {node: sum(stage.count for stage in slow.stages if stage.node == node) for node in slow.nodes}
        heavy = [node for node, units in shares.items() if units > BLOCKS / 4]
        for seed in seeds:
            name = heavy[seed % len(heavy)]
            balancer = _play(goal, duration_s, seed, [FleetEvent(STEP_AT_S, name, speed=0.5)], SLIGHT_NOISE)
            decided = [entry["first_s"] for entry in balancer.pipelines[0].balancer.why() if entry["verdict"] == "move"]
            delays.append(next((at_s for at_s in decided if at_s >= STEP_AT_S), math.inf) - STEP_AT_S)
            note(f"  {goal.value}: {name} at half speed, decided after {delays[-1]:.0f} s")
    worst = max(delays)
    return [Result("half speed: decision after", worst, "s", (min(delays), worst), at_most=5.0)]


def _oscillation(seeds: Sequence[int], periods_s: Sequence[float], duration_s: float) -> list[Result]:
    """A device that runs at half speed every other half period."""
    results = []
    for period_s in periods_s:
        counts, second_halves, first_halves = [], 0, 0
        for goal in GOALS:
            for seed in seeds:
                halves = int(2 * duration_s / period_s)
                events = [FleetEvent(k * period_s / 2, "b", speed=(1.0, 0.5)[k % 2]) for k in range(1, halves)]
                moves_s = _play(goal, duration_s, seed, events).pipelines[0].moves_s
                counts.append(60 * len(moves_s) / duration_s)
                first_halves += sum(at_s < duration_s / 2 for at_s in moves_s)
                second_halves += sum(at_s >= duration_s / 2 for at_s in moves_s)
        note(f"  period {period_s:g} s: {counts} moves/min, {first_halves} before half-time, {second_halves} after")
        results.append(Result(f"period {period_s:g} s: most moves", max(counts), "moves/min", at_most=1.0))
        results.append(
            Result(f"period {period_s:g} s: moves after over before half-time", float(second_halves), "moves",
                   at_most=float(max(first_halves, 1)))
        )  # fmt: skip
    return results


# --- 200 devices, second by second ----------------------------------------------------------------------------


@dataclass
class _Group:
    """A pipeline of the large fleet."""

    problem: Problem
    stages: tuple[Stage, ...]
    first: tuple[Stage, ...]
    members: frozenset[int]
    positions: int = 0
    still_until_s: float = 0.0


def _drift(devices: int, duration_s: int) -> list[Result]:
    draw = random.Random(1)
    fleet = tuple(_device(f"d{i:03d}", draw.uniform(2, 8) / 1e3, draw.randint(350, 900)) for i in range(devices))
    problem = Problem(
        RUNS, fleet, context_tokens=1024, slots=STREAMS, objective=Objective.THROUGHPUT, activation_bytes=2048
    )
    dealt = plan_replicas(problem, prove=False)
    if isinstance(dealt, Infeasible):
        raise RuntimeError(dealt.reason)
    index = {device.name: i for i, device in enumerate(fleet)}
    groups = []
    for plan in dealt.pipelines:
        members = tuple(problem.device_by_name[name] for name in plan.nodes)
        groups.append(
            _Group(replace(problem, devices=members), plan.stages, plan.stages, frozenset(index[n] for n in plan.nodes))
        )
    note(f"  {len(groups)} pipelines of {min(len(g.members) for g in groups)} to {max(len(g.members) for g in groups)}")
    balancer = SimulatedBalancer([group.problem for group in groups], noise=SLIGHT_NOISE, seed=2)
    slowness = {device.name: 1.0 for device in fleet}
    level = dict.fromkeys(slowness, 0.0)
    balanced = still = oracle = 0.0
    for second in range(duration_s):
        for name in level:
            level[name] += -level[name] / WANDER_S + WANDER * math.sqrt(2 / WANDER_S) * draw.gauss(0, 1)
            slowness[name] = math.exp(level[name])
        truth = with_slowness(problem, slowness)
        balanced += sum(_second(balancer, group, at, truth, second) for at, group in enumerate(groups))
        still += sum(1 / _bottleneck_s(truth, group.first) for group in groups)
        rates = Rates(truth)
        oracle += sum(rates.of(group.members) for group in groups)
        if second % 600 == 599:
            note(f"  {second + 1} s: {balanced / oracle:.3f} of the oracle, {still / oracle:.3f} without moves")
    moves = sum(len(watched.moves_s) for watched in balancer.pipelines)
    per_minute = 60 * moves / duration_s / len(groups)
    return [
        Result(f"{devices} wandering devices, {duration_s} s: throughput over the oracle's", balanced / oracle, "x",
               at_least=0.9),
        Result("the same without a balancer", still / oracle, "x"),
        median_result("moves per pipeline and minute", [per_minute], "moves/min"),
    ]  # fmt: skip


def _second(balancer: SimulatedBalancer, group: _Group, at: int, truth: Problem, second: int) -> float:
    """Tokens of a pipeline in one second."""
    token_s = _bottleneck_s(truth, group.stages)
    standing = min(1.0, max(0.0, group.still_until_s - second))
    tokens = (1 - standing) / token_s
    costs = stage_costs(truth, group.stages)
    group.positions += round(tokens)
    per_node: dict[str, list[StageObservation]] = {device.name: [] for device in group.problem.devices}
    for stage, cost in enumerate(costs):
        per_node[group.stages[stage].node].append(
            StageObservation(stage, cost.run_s(PROBE_BATCH), PROBE_BATCH, group.positions)
        )
    nodes = [NodeObservation(name, None, 0, True, tuple(seen)) for name, seen in per_node.items()]
    seen = Observation(
        float(second), at, group.stages, tuple(nodes),
        requests=STREAMS, remaining_tokens=STREAMS * 128, positions=STREAMS * 256, asked_tokens=group.positions,
    )  # fmt: skip
    move = balancer.decide(seen)
    if move is not None:
        group.stages = move.stages
        group.still_until_s = second + 1 + move.pause_s
    return tokens


def _bottleneck_s(problem: Problem, stages: tuple[Stage, ...]) -> float:
    held = holdings(problem, stages)
    return max(load_s(problem.device_by_name[node], mine, len(held) > 1) for node, mine in held.items())


if __name__ == "__main__":
    main("balance", measure)
