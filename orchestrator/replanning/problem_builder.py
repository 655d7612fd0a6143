"""Builds the planner's question from a model's manifest and the fleet's births (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.deployment.plan import usable_bytes
from orchestrator.fleet.health import Condition
from orchestrator.model.manifest import Manifest, Unit
from orchestrator.planning.problem import Device, Objective, Problem, Stage
from orchestrator.planning.profile import Profile
from orchestrator.planning.unit_run import UnitRun
from orchestrator.replanning.constraints import planner_constraints
from orchestrator.replanning.draft_memory import DraftMemory
from orchestrator.replanning.memory_model import (
    SECOND_SESSION_BYTES,
    PeakBytes,
    UnitSizes,
    common_bytes,
    spread_bytes,
    ties_ends,
    transient_bytes,
    workspace_bytes,
)
from orchestrator.timing import DEFAULT_CONTEXT_TOKENS
from schemas.codec import WIRE_DTYPES, activation_payload_bytes
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import NodeBirth, PlanConstraints, UnitKind, WireDtype
from schemas.units import BLOCK, EMBED, HEAD

PREFILL_GAIN = 4.0
"""Prompt tokens computed in the time of one decode step's token: weights are read once per chunk."""

MIN_SPEED_FLOPS = 1e6
"""A node that reports less (or nothing) is planned with this."""


def context_of(manifest: Manifest, asked_tokens: int | None) -> int:
    """Positions per request: what was asked for, else 2048, never more than the model can."""
    longest = manifest.max_context - manifest.numerics.spare_positions  # tables of positions end there
    return min(longest, asked_tokens or DEFAULT_CONTEXT_TOKENS)


def build_problem(
    manifest: Manifest,
    fleet: Sequence[NodeBirth],
    *,
    context_tokens: int,
    slots: int,
    wire_dtype: WireDtype,
    chunk_tokens: int,
    max_message_bytes: int = MAX_PAYLOAD_BYTES,
    incumbent: tuple[Stage, ...] = (),
    profiles: Mapping[str, Profile] | None = None,
    constraints: PlanConstraints | None = None,
    conditions: Mapping[str, Condition] | None = None,
    memory_margin: float = 0.0,
    draft: Manifest | None = None,
) -> Problem:
    """The planner's question. Nodes with a profile are planned with what they measured, others with what they reported.

    Blocks that differ (another quantisation, other keys and values) count as their mean, and each node as having those
    neighbours that take most, so that a plan always fits. ``memory_margin``: share of what each node may use that is
    left free. ``draft``: a model that goes with the head, to guess with.

    Raises:
        PlanningError: no nodes, or figures that contradict each other.
        BadConstraint: a constraint that this model can't fulfil.
    """
    constraints = constraints or PlanConstraints()
    profiles, conditions = profiles or {}, conditions or {}
    units, caches = manifest.units, {"context_tokens": context_tokens, "slots": slots}
    sizes = UnitSizes.of(manifest, **caches)
    disk_bytes, blocks = sizes.disk_bytes, sizes.blocks
    head = _run(HEAD, units[-1:], disk_bytes, [sizes.head])
    if draft is not None:
        head = DraftMemory.of(draft, chunk_tokens=chunk_tokens, **caches).beside(head)
    runs = (
        _run(EMBED, units[:1], disk_bytes, [sizes.embedding]),
        _run(BLOCK, units[1:-1], disk_bytes, blocks),
        head,
    )
    spread = max(spread_bytes([block.loading for block in blocks]), spread_bytes([block.serving for block in blocks]))
    transient = transient_bytes(manifest, max(disk_bytes[1:-1]))
    tied = sum(blob.size_bytes for blob in manifest.blobs if ties_ends(manifest, blob))
    workspace = workspace_bytes(manifest, chunk_tokens=chunk_tokens, **caches)
    longer = workspace_bytes(manifest, chunk_tokens=chunk_tokens, context_tokens=context_tokens + 1, slots=slots)
    wider = workspace_bytes(manifest, chunk_tokens=chunk_tokens, context_tokens=context_tokens, slots=slots + 1)
    return Problem(
        runs=runs,
        devices=tuple(
            _device(birth, runs, profiles.get(birth.node), conditions.get(birth.node, Condition()), memory_margin)
            for birth in fleet
        ),
        context_tokens=context_tokens,
        slots=slots,
        objective=Objective(constraints.objective),
        constraints=planner_constraints(constraints, manifest.num_units),
        activation_bytes=activation_payload_bytes(WIRE_DTYPES[wire_dtype], 1, manifest.width),
        workspace_bytes=workspace + common_bytes(manifest) + spread + transient,
        second_stage_bytes=SECOND_SESSION_BYTES,
        workspace_bytes_per_token=longer - workspace,
        workspace_bytes_per_slot=wider - workspace,
        tied_disk_bytes=tied,
        prefill_chunk_tokens=chunk_tokens,
        max_message_bytes=max_message_bytes,
        incumbent=incumbent,
    )


def _run(kind: UnitKind, units: Sequence[Unit], disk_bytes: Sequence[int], peaks: Sequence[PeakBytes]) -> UnitRun:
    kept = [unit.kv_bytes_per_token for unit in units]
    state_bytes = max(unit.state_bytes for unit in units)
    if state_bytes:  # a unit has either, and counts as the larger of both
        kept = [max(kept)] * len(kept)
    return UnitRun(
        kind=kind,
        start=units[0].index,
        count=len(units),
        weight_bytes=_mean([peak.serving for peak in peaks]),
        loading_bytes=_mean([peak.loading for peak in peaks]),
        kv_bytes_per_token=_mean(kept),
        kv_spread_bytes=spread_bytes(kept),
        flops_per_token=float(max(unit.flops_per_token for unit in units)),
        disk_bytes=max(disk_bytes[unit.index] for unit in units),
        state_bytes=state_bytes,
    )


def _mean(sizes: Sequence[int]) -> int:
    return math.ceil(sum(sizes) / len(sizes))


def _device(
    birth: NodeBirth, runs: Sequence[UnitRun], profile: Profile | None, condition: Condition, memory_margin: float
) -> Device:
    device = _measured(birth, runs, profile)
    return replace(
        device,
        memory_bytes=usable_bytes(birth, memory_margin),
        memory_is_limited=birth.memory_is_limited,
        battery_percent=condition.battery_percent,
        charging=condition.charging,
        cost_factor=condition.cost_factor,
    )


def _measured(birth: NodeBirth, runs: Sequence[UnitRun], profile: Profile | None) -> Device:
    speed = max(birth.speed_flops, MIN_SPEED_FLOPS)
    if profile is not None:
        measured = profile.measured
        return Device(
            name=birth.node,
            memory_bytes=birth.memory_bytes,
            decode_s=profile.decode_s,
            decode_batched_s=profile.decode_batched_s,
            prefill_s=profile.prefill_s,
            # A run's fixed cost comes once per stage, as the hop does.
            hop_s=measured.hop_s + profile.fixed_s,
            hop_busy_s=measured.hop_busy_s + profile.fixed_s,
            link_bytes_per_s=measured.link_bytes_per_s or math.inf,
            storage_bytes=birth.storage_bytes,
            runtime_overhead_bytes=birth.overhead_bytes,
            flops_per_s=speed,
        )
    decode_s = tuple(run.flops_per_token / speed for run in runs)
    return Device(
        name=birth.node,
        memory_bytes=birth.memory_bytes,
        decode_s=decode_s,
        prefill_s=tuple(figure / PREFILL_GAIN for figure in decode_s),
        hop_s=birth.hop_s,
        storage_bytes=birth.storage_bytes,
        runtime_overhead_bytes=birth.overhead_bytes,
        flops_per_s=speed,
    )
