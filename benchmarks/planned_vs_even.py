"""What the plan gains over an even split on devices that are not alike.

Four node processes at relative speeds 1, 0.5, 0.25 and 0.25, scaled down together so that two cores carry them and
the broker, with memory capped so that none can hold the model alone. The nodes measure themselves and are planned as
in earnest; then plan and even split answer in turn over the same Mosquitto, one stream and eight.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import PAIRS, Result, main, median_result, note
from smollm2 import QUESTION, open_smollm2

from broker.local import LocalBroker
from edge_node.profiling import PREFILL_TOKENS
from orchestrator.model.model import Model
from orchestrator.planning.planner import evaluate, solve
from orchestrator.planning.problem import Objective, Problem, Stage
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning_input import build_problem
from orchestrator.profiles import Profile, fingerprint_of
from orchestrator.worker import probe_parts
from schemas.messages import NodeProfile, ProbeNode
from tests.support.nodes import running_nodes
from tests.support.ring import Answer, Ring, even_cuts

RELATIVE_SPEEDS = (1.0, 0.5, 0.25, 0.25)
SCALE = 0.3
CONTEXT_TOKENS = 512
CHUNK_TOKENS = 128
STREAMS = 8
MEMORY_SHARE = 0.7
"""Of what the whole model would need on one node."""


@dataclass(frozen=True)
class Fleet:
    """The nodes' speeds by name, and what they measured."""

    ring: Ring
    homes: dict[str, Path]
    speeds: dict[str, float]
    problem: Problem


def measure(quick: bool) -> list[Result]:
    """The plan over the even split on four uneven devices."""
    model = open_smollm2("fast")
    names = [f"node-{index}" for index in range(len(RELATIVE_SPEEDS))]
    speeds = {name: relative * SCALE for name, relative in zip(names, RELATIVE_SPEEDS, strict=True)}
    each = {name: ["--emulate-speed", str(speed), "--watchdog-s", "20"] for name, speed in speeds.items()}
    with tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=model.blobs_folder.parent) as folder:
        with (
            LocalBroker(kind="mosquitto") as broker,
            running_nodes(names, broker.url, Path(folder), each=each) as nodes,
            Ring(broker.url, model) as ring,
        ):
            homes = {name: nodes[name].home for name in names}
            ring.wait("nodes", lambda: ring.online.issuperset(names) and set(ring.births) >= set(names))
            profiles = _profiles(ring, model, homes)
            fleet = Fleet(ring, homes, speeds, _problem(ring, model, profiles))
            return [*_speeds(profiles, speeds), *_compare(fleet, model, quick)]


def _profiles(ring: Ring, model: Model, homes: dict[str, Path]) -> dict[str, Profile]:
    """Let one node after the other measure itself: two cores do not carry four at once."""
    manifest = model.manifest
    parts = probe_parts(model)
    found = {}
    for name, home in homes.items():
        for part in parts:
            ring.hand_over((part.graph, *part.blobs), home)
        probe = ProbeNode(
            model=manifest.name, fingerprint=fingerprint_of(manifest), parts=parts,
            blob_urls=("http://127.0.0.1:9/blobs",), vocab_size=manifest.vocab_size,
            width=manifest.boundaries[0].width, wire_dtype="fp16", time_limit_s=3.0,
        )  # fmt: skip
        ring.profiles.pop(name, None)
        ring.command(name, probe)
        ring.wait(f"profile of {name}", lambda name=name: name in ring.profiles)  # type: ignore[misc]
        measured: NodeProfile = ring.profiles[name]
        if measured.failure:
            raise RuntimeError(f"{name}: {measured.failure}")
        birth = ring.births[name]
        found[name] = Profile(
            node=name, fingerprint=measured.fingerprint, threads=birth.threads, emulated_speed=birth.emulated_speed,
            measured=measured, measured_s=0.0,
        )  # fmt: skip
    return found


def _problem(ring: Ring, model: Model, profiles: dict[str, Profile]) -> Problem:
    births = [ring.births[name] for name in sorted(profiles)]
    problem = build_problem(
        model.manifest, births, context_tokens=CONTEXT_TOKENS, slots=STREAMS, wire_dtype="fp16",
        chunk_tokens=CHUNK_TOKENS, profiles=profiles,
    )  # fmt: skip
    needed = sum(run.count * problem.unit_memory_bytes(run) for run in problem.runs)
    devices = tuple(
        replace(device, memory_bytes=problem.fixed_bytes(device) + int(MEMORY_SHARE * needed))
        for device in problem.devices
    )
    return replace(problem, devices=devices, one_stage_per_node=True)


def _speeds(profiles: dict[str, Profile], speeds: dict[str, float]) -> list[Result]:
    """Is each device as slow as it says? Its measured blocks against those of the first."""
    first = next(iter(speeds))
    results = []
    for name, speed in list(speeds.items())[1:]:
        ratio = profiles[first].decode_s[1] / profiles[name].decode_s[1]
        error = ratio / (speed / speeds[first]) - 1
        results.append(Result(f"emulated speed of {name}, error", 100 * error, "%", at_least=-5.0, at_most=5.0))
    return results


def _stages(names: Sequence[str], cuts: Sequence[int]) -> tuple[Stage, ...]:
    return tuple(Stage(name, start, stop) for name, start, stop in zip(names, cuts, cuts[1:], strict=False))


def _solve(problem: Problem) -> Solution:
    found = solve(problem, prove=False)
    if isinstance(found, Infeasible):
        raise RuntimeError(found.reason)
    return found


def _compare(fleet: Fleet, model: Model, quick: bool) -> list[Result]:
    even = _stages(list(fleet.homes), even_cuts(model.manifest.num_units, len(fleet.homes)))
    pairs, tokens = (1, 8) if quick else (PAIRS, 40)
    results = []
    for objective, streams, target in ((Objective.LATENCY, 1, 1.3), (Objective.THROUGHPUT, STREAMS, 1.7)):
        problem = replace(fleet.problem, objective=objective)
        plan = _solve(problem)
        note(f"{objective.value}: " + ", ".join(f"{s.node} [{s.start}, {s.stop})" for s in plan.stages))
        ratios, errors = [], []
        for _ in range(pairs):
            planned_s = _token_s(fleet, model, plan.stages, streams, tokens)
            even_s = _token_s(fleet, model, even, streams, tokens)
            ratios.append(even_s / planned_s)
            if streams == 1:
                for stages, measured_s in ((plan.stages, planned_s), (even, even_s)):
                    errors.append(100 * (evaluate_s(problem, stages) / measured_s - 1))
            note(f"  {streams} streams: plan {planned_s * 1e3:.1f} ms, even {even_s * 1e3:.1f} ms per token")
        results.append(median_result(f"plan over even split, {streams} streams", ratios, "x", at_least=target))
        if errors:
            results.append(median_result("predicted over measured time per token, error", errors, "%", at_least=-15.0, at_most=15.0))
    return results


def evaluate_s(problem: Problem, stages: tuple[Stage, ...]) -> float:
    """Predicted seconds per token of one stream."""
    free = tuple(replace(device, memory_bytes=2**50, storage_bytes=None) for device in problem.devices)
    return evaluate(replace(problem, devices=free), stages).predicted.decode_s


def _token_s(fleet: Fleet, model: Model, stages: tuple[Stage, ...], streams: int, tokens: int) -> float:
    """Seconds per token over all streams, decoding alone: from the last first token to the first end."""
    cuts = [stages[0].start, *(stage.stop for stage in stages)]
    fleet.ring.deploy(
        fleet.homes, cuts, wire="fp16", context_tokens=CONTEXT_TOKENS, slots=STREAMS, chunk_tokens=CHUNK_TOKENS,
        order=[stage.node for stage in stages],
    )  # fmt: skip
    prompt = model.tokenizer().encode_chat([{"role": "user", "content": QUESTION}])
    answers = [fleet.ring.open(prompt, tokens) for _ in range(streams)]
    for answer in answers:
        fleet.ring.wait("an answer", lambda answer=answer: bool(answer.finish), 300.0)  # type: ignore[misc]
    for answer in answers:
        fleet.ring.close_request(answer)
    return _rate(answers)


def _rate(answers: Sequence[Answer]) -> float:
    begin_s = max(answer.arrivals_s[0] for answer in answers)
    end_s = min(answer.arrivals_s[-1] for answer in answers)
    if len(answers) == 1:
        gaps = [b - a for a, b in zip(answers[0].arrivals_s, answers[0].arrivals_s[1:], strict=False)]
        return statistics.median(gaps)
    counted = sum(1 for answer in answers for time_s in answer.arrivals_s if begin_s < time_s <= end_s)
    return (end_s - begin_s) / max(counted, 1)


if __name__ == "__main__":
    started = time.monotonic()
    assert PREFILL_TOKENS <= CHUNK_TOKENS
    main("planned_vs_even", measure)
