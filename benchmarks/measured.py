"""The planner's question about real nodes, with what they measured themselves, for benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import note

from orchestrator.deployment.plan import unit_counts
from orchestrator.fleet.profiles import fingerprint_of
from orchestrator.model.model import Model
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.profile import Profile
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.solve import solve
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.service.worker import probe_parts
from schemas.messages import NodeProfile, ProbeNode
from tests.support.ring import Answer, Ring, even_cuts

MEMORY_SHARE = 0.7
"""Of what the whole model would need on one node."""
PROFILED_S = 3.0
"""How long a node measures itself."""


def profiles_of(
    ring: Ring, model: Model, homes: dict[str, Path], *, time_limit_s: float
) -> dict[str, Profile]:  # fmt: skip
    """Let one node after the other measure itself, each for so long: two cores do not carry four at once."""
    ring.wait("nodes", lambda: ring.online.issuperset(homes) and ring.births.keys() >= homes.keys())
    manifest = model.manifest
    parts = probe_parts(model)
    found = {}
    for name, home in homes.items():
        for part in parts:
            ring.hand_over((part.graph, *part.blobs), home)
        probe = ProbeNode(
            model=manifest.name, fingerprint=fingerprint_of(manifest), parts=parts,
            blob_urls=("http://127.0.0.1:9/blobs",), vocab_size=manifest.vocab_size,
            width=manifest.boundaries[0].width, wire_dtype="fp16",
            same_bits=manifest.numerics.same_bits, time_limit_s=time_limit_s,
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


def even_stages(names: Sequence[str], num_units: int) -> tuple[Stage, ...]:
    """One stage for each node, as equal as can be."""
    bounds = itertools.pairwise(even_cuts(num_units, len(names)))
    return tuple(Stage(name, start, stop) for name, (start, stop) in zip(names, bounds, strict=True))


def deploy(ring: Ring, homes: dict[str, Path], stages: Sequence[Stage], **options: Any) -> None:
    """Put these stages in force, with halves on the wire; ``options`` are those of ``Ring.prepare``."""
    cuts = [stages[0].start, *(stage.stop for stage in stages)]
    ring.deploy(homes, cuts, wire="fp16", order=[stage.node for stage in stages], **options)


def run_s(answers: Sequence[Answer], stage: int) -> float:
    """What a stage's decode runs took."""
    timings = [answer.timings[stage] for answer in answers]
    return sum(timing.decode_s for timing in timings) / sum(timing.decode_steps for timing in timings)


def observed(
    profiles: dict[str, Profile], stages: Sequence[Stage], num_units: int, answers: Sequence[Answer], *, rows: int
) -> dict[str, Profile]:
    """Profiles scaled by what these stages took for answers in batches of so many: what heartbeats tell an
    orchestrator, which compares them with what it expects of such batches."""
    found = {}
    for index, stage in enumerate(stages):
        profile = profiles[stage.node]
        expected_s = profile.stage_s(unit_counts(stage, num_units), rows)
        found[stage.node] = replace(profile, drift=run_s(answers, index) / expected_s)
        note(f"{stage.node}: {found[stage.node].drift:.2f} times what it measured alone")
    return found


def problem_of(
    ring: Ring, model: Model, profiles: dict[str, Profile], *, context_tokens: int, slots: int, chunk_tokens: int
) -> Problem:
    """Of nodes that can't hold the model alone."""
    births = [ring.births[name] for name in sorted(profiles)]
    problem = build_problem(
        model.manifest, births, context_tokens=context_tokens, slots=slots, wire_dtype="fp16",
        chunk_tokens=chunk_tokens, profiles=profiles,
    )  # fmt: skip
    needed = sum(run.count * problem.unit_memory_bytes(run) for run in problem.runs)
    devices = tuple(
        replace(device, memory_bytes=problem.fixed_bytes(device) + int(MEMORY_SHARE * needed))
        for device in problem.devices
    )
    return replace(problem, devices=devices)


def solved(problem: Problem) -> Solution:
    """The best plan."""
    found = solve(problem, prove=False)
    if isinstance(found, Infeasible):
        raise RuntimeError(found.reason)
    return found
