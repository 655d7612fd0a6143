"""What a given plan costs, counted exactly from the problem's own figures, and whether it is allowed.

Every solver's answer passes through `check` and `predict`, so nothing here trusts a solver. The rules:

* a ring of K >= 2 nodes makes K hops per token, one out of each node; a single node makes none;
* decode_s (one stream) = sum over nodes of units x c[d, r], plus the hops;
* load of a node (many streams) = units x batched c[d, r], plus the busy part of its hop; the bottleneck is the
  largest load, and s streams give min(1 / bottleneck, s / decode_s) tokens per second;
* ttft_s: chunks of the prompt flow through the stages like jobs through a flow shop whose jobs are equal: the sum
  of the stages' times for one chunk, plus the slowest stage for each further chunk; the head runs once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.problem import Device, Objective, Problem, Stage
from orchestrator.planning.solution import NodeFigures, Prediction, StageFigures
from orchestrator.text.figures import size_text
from schemas.units import HEAD, overlap


@dataclass(frozen=True)
class Holding:
    """What one node holds in all its stages: units per run, and whether it is first and last of the chain."""

    counts: tuple[int, ...]
    first: bool
    last: bool

    @property
    def units(self) -> int:
        return sum(self.counts)


def holdings(problem: Problem, stages: Sequence[Stage]) -> dict[str, Holding]:
    """Units per run of every node used, in ring order."""
    counts: dict[str, list[int]] = {}
    for stage in stages:
        mine = counts.setdefault(stage.node, [0] * len(problem.runs))
        for index, count in enumerate(unit_counts(problem, stage)):
            mine[index] += count
    firsts = {stage.node for stage in stages if stage.start == 0}
    lasts = {stage.node for stage in stages if stage.stop == problem.unit_count}
    return {node: Holding(tuple(mine), node in firsts, node in lasts) for node, mine in counts.items()}


def memory_bytes(problem: Problem, device: Device, held: Holding) -> int:
    """Resident bytes of a device in a plan: units with their KV caches, tied weights once, everything fixed."""
    units = sum(count * problem.unit_memory_bytes(run) for count, run in zip(held.counts, problem.runs, strict=True))
    taken = problem.fixed_bytes(device) + units
    if not (held.first and held.last):
        return taken
    return taken - problem.tied_bytes if held.units == problem.unit_count else taken + problem.both_ends_bytes


def stored_bytes(problem: Problem, held: Holding) -> int:
    """Bytes of blobs on the device's disk."""
    blobs = sum(count * run.stored_bytes for count, run in zip(held.counts, problem.runs, strict=True))
    return blobs - (problem.tied_stored_bytes if held.first and held.last else 0)


def weighted(counts: Sequence[int], figures: Sequence[float]) -> float:
    """Sum of units times seconds per unit."""
    return sum(count * figure for count, figure in zip(counts, figures, strict=True) if count)


def pass_s(problem: Problem, figures: Sequence[float]) -> float:
    """The whole chain, units times seconds per unit."""
    return weighted([run.count for run in problem.runs], figures)


def load_s(device: Device, held: Holding, ring: bool) -> float:
    """Busy seconds per token of a device when many streams share the pipeline."""
    return weighted(held.counts, device.batched_s) + (device.hop_busy_s if ring else 0.0)


def decode_s(devices: Mapping[str, Device], held: Mapping[str, Holding]) -> float:
    """Seconds per token of one stream through the whole ring."""
    ring = len(held) > 1
    return sum(
        weighted(mine.counts, devices[node].decode_s) + (devices[node].hop_s if ring else 0.0)
        for node, mine in held.items()
    )


def paper_s(problem: Problem, held: Mapping[str, Holding]) -> float:
    """LinguaLinked's objective: FLOPs over speed, plus one link per boundary of an open chain.

    A link from d to e goes through the broker: half a hop at each end.
    """
    total = 0.0
    for node, mine in held.items():
        device = problem.device_by_name[node]
        total += weighted(mine.counts, paper_unit_s(problem, device))
        total += device.hop_s * (2 - mine.first - mine.last) / 2
    return total


def paper_unit_s(problem: Problem, device: Device) -> tuple[float, ...]:
    """Seconds per unit by FLOPs over the device's speed (from its measured blocks when no speed is known)."""
    speed = device.flops_per_s
    if speed is None:
        measured = pass_s(problem, device.decode_s)
        flops = sum(run.count * run.flops_per_token for run in problem.runs)
        if flops == 0 or measured == 0:
            return device.decode_s
        speed = flops / measured
    return tuple(run.flops_per_token / speed for run in problem.runs)


def objective_value(problem: Problem, predicted: Prediction, stages: Sequence[Stage]) -> float:
    """The seconds that the problem's objective minimises (`balanced`: the bottleneck)."""
    if problem.objective is Objective.LATENCY:
        return predicted.decode_s
    if problem.objective is Objective.PAPER:
        return paper_s(problem, holdings(problem, stages))
    if problem.objective is Objective.BALANCED:
        return predicted.bottleneck_s
    return 1.0 / predicted.tokens_per_s_many if predicted.tokens_per_s_many else 0.0


def ttft_s(problem: Problem, stages: Sequence[Stage], prompt_tokens: int | None = None) -> float:
    """Seconds from the prompt's arrival at stage 0 to the first token out of the last stage."""
    tokens = problem.prompt_tokens if prompt_tokens is None else prompt_tokens
    chunk = min(tokens, problem.prefill_chunk_tokens)
    through, slowest = 0.0, 0.0
    for index, stage in enumerate(stages):
        device = problem.device_by_name[stage.node]
        counts, head_s = stage_counts(problem, stage)
        compute_s = chunk * weighted(counts, device.prefill_s)
        send_s = 0.0
        if index + 1 < len(stages):
            send_s = device.hop_s + (chunk - 1) * problem.row_s(device)
        through += compute_s + send_s + (weighted(head_s, device.decode_s) if head_s else 0.0)
        slowest = max(slowest, compute_s, send_s - device.hop_s)
    return through + slowest * (tokens - chunk) / chunk


def unit_counts(problem: Problem, stage: Stage) -> list[int]:
    """Units per run of a stage."""
    return [len(overlap(stage, run)) for run in problem.runs]


def stage_counts(problem: Problem, stage: Stage) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Units per run of a stage: those that see every prompt token, and the head, which sees only the last."""
    counts = unit_counts(problem, stage)
    body = tuple(0 if run.kind == HEAD else count for run, count in zip(problem.runs, counts, strict=True))
    head = tuple(count if run.kind == HEAD else 0 for run, count in zip(problem.runs, counts, strict=True))
    return body, head


def predict(problem: Problem, stages: Sequence[Stage]) -> Prediction:
    """Everything the cost rules say about a plan."""
    problem = problem.of_ring(len(stages))
    devices, held = problem.device_by_name, holdings(problem, stages)
    ring = len(held) > 1
    token_s = decode_s(devices, held)
    loads = {node: load_s(devices[node], mine, ring) for node, mine in held.items()}
    busiest = max(loads, key=lambda node: loads[node])
    single_rate = 1.0 / token_s if token_s else 0.0
    full_rate = 1.0 / loads[busiest] if loads[busiest] else 0.0
    many = full_rate if problem.streams is None else min(full_rate, problem.streams * single_rate)
    return Prediction(
        stages=tuple(_stage_figures(problem, stages, index) for index in range(len(stages))),
        nodes=tuple(
            NodeFigures(
                node=node,
                units=mine.units,
                load_s=loads[node],
                memory_bytes=memory_bytes(problem, devices[node], mine),
                memory_limit_bytes=problem.memory_limit_bytes(devices[node]),
                stored_bytes=stored_bytes(problem, mine),
                storage_limit_bytes=devices[node].storage_bytes,
            )
            for node, mine in held.items()
        ),
        decode_s=token_s,
        bottleneck_s=loads[busiest],
        bottleneck_node=busiest,
        ttft_s=ttft_s(problem, stages),
        prompt_tokens=problem.prompt_tokens,
        tokens_per_s=single_rate,
        tokens_per_s_many=many,
    )


def leaves(stages: Sequence[Stage], index: int) -> bool:
    """Does what a stage makes leave its node? A node with both ends hands its last token to its own first stage."""
    return stages[(index + 1) % len(stages)].node != stages[index].node


def _stage_figures(problem: Problem, stages: Sequence[Stage], index: int) -> StageFigures:
    stage = stages[index]
    device = problem.device_by_name[stage.node]
    body, head = stage_counts(problem, stage)
    counts = unit_counts(problem, stage)
    runs = (problem.without_draft or problem).runs
    return StageFigures(
        node=stage.node,
        start=stage.start,
        stop=stage.stop,
        decode_s=weighted(counts, device.decode_s),
        hop_s=device.hop_s if leaves(stages, index) else 0.0,
        prefill_s=problem.prompt_tokens * weighted(body, device.prefill_s) + weighted(head, device.decode_s),
        weight_bytes=sum(count * run.weight_bytes for count, run in zip(counts, runs, strict=True)),
        kv_bytes=sum(count * problem.unit_cache_bytes(run) for count, run in zip(counts, runs, strict=True)),
        draft_bytes=problem.draft_bytes if stage.stop == problem.unit_count else 0,
    )


def check(problem: Problem, stages: Sequence[Stage]) -> list[str]:
    """Everything that is wrong with a plan; empty when it may run."""
    problem = problem.of_ring(len(stages))
    wrong: list[str] = []
    at = 0
    for stage in stages:
        if stage.start != at or stage.stop <= stage.start:
            wrong.append(f"stage {stage.start}..{stage.stop} on {stage.node}: expected one that starts at unit {at}")
        at = stage.stop
    if at != problem.unit_count:
        wrong.append(f"{at} of {problem.unit_count} units are covered")
    allowed = {device.name: device for device in problem.eligible}
    for position, stage in enumerate(stages):
        seen = [other for other in range(len(stages)) if stages[other].node == stage.node]
        ring_ends = seen == [0, len(stages) - 1] and len(stages) > 2
        if len(seen) > 1 and not ring_ends:
            wrong.append(f"{stage.node} appears more than once at position {position}")
    for node, mine in holdings(problem, stages).items():
        wrong += limits_broken(problem, allowed[node], mine) if node in allowed else [f"{node} may not take part"]
    for pin in problem.constraints.pins:
        for unit in range(pin.start, pin.stop):
            owner = next((stage.node for stage in stages if stage.start <= unit < stage.stop), None)
            if owner != pin.node:
                wrong.append(f"unit {unit} is pinned to {pin.node} and planned on {owner}")
    return wrong


def limits_broken(problem: Problem, device: Device, held: Holding) -> list[str]:
    """Which limits of one device its share breaks."""
    wrong = []
    used, limit = memory_bytes(problem, device, held), problem.memory_limit_bytes(device)
    if used > limit:
        wrong.append(f"{device.name} needs {size_text(used)} of memory and may use {size_text(limit)}")
    disk = stored_bytes(problem, held)
    if device.storage_bytes is not None and disk > device.storage_bytes:
        wrong.append(f"{device.name} needs {size_text(disk)} of storage and may use {size_text(device.storage_bytes)}")
    if held.units > problem.unit_limit(device):
        wrong.append(f"{device.name} holds {held.units} units and may hold {problem.unit_limit(device)}")
    return wrong
