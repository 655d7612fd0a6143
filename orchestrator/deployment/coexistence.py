"""Coexistence of a running plan and the next: what nodes hold of both, what taking open requests over costs (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.deployment.open_requests import OpenWork
from orchestrator.deployment.plan import DeployedPlan, usable_bytes
from orchestrator.planning.moves.kv_migration import Migration, estimate, transfers_between
from schemas.handover import heirs, unchanged
from schemas.messages import NodeBirth
from schemas.units import blocks_of, overlap


def bytes_beside(plan: DeployedPlan, running: DeployedPlan, fleet: dict[str, NodeBirth]) -> dict[str, int]:
    """What each node of a running plan holds besides what it needs for the new one, its own overhead left out.

    A stage that goes on from an old one shares the KV caches of the blocks that both hold; one whose units stay the
    same *is* the old one, and needs nothing more. A node whose stages all stay needs no second workspace either. Of a
    draft model that both plans have there nothing is needed twice.
    """
    nodes = [node for node in dict.fromkeys(running.nodes) if node in fleet]
    held = {node: running.planned_bytes(node) - fleet[node].overhead_bytes for node in nodes}
    if not plan.can_take_over(running):
        return held
    old, new, unit_count = running.ring, plan.ring, running.model.manifest.num_units
    same = unchanged(old, new)
    for target, source in heirs(old, new).items():
        figures, node = running.solution.predicted.stages[source], old[source].node
        if node not in held:
            continue
        if target in same:
            held[node] -= figures.weight_bytes + figures.kv_bytes
        elif blocks := blocks_of(old[source], unit_count):
            shared = len(overlap(blocks, blocks_of(new[target], unit_count)))
            held[node] -= figures.kv_bytes // len(blocks) * shared
    last, stays = running.solution.predicted.stages[-1], set(same.values())
    drafts = {last.node: last.draft_bytes}
    left = {} if (plan.draft, new[-1].node) == (running.draft, last.node) else drafts
    of_units = {
        node: 0
        if all(stage in stays for stage, owner in enumerate(running.nodes) if owner == node)
        else size_bytes - drafts.get(node, 0)
        for node, size_bytes in held.items()
    }
    return {node: size_bytes + left.get(node, 0) for node, size_bytes in of_units.items()}


def fits_beside(plan: DeployedPlan, running: DeployedPlan, fleet: dict[str, NodeBirth]) -> bool:
    """Can every node load its new segment while the old one still runs?"""
    held = bytes_beside(plan, running, fleet)
    return all(
        plan.planned_bytes(node) + held.get(node, 0) <= usable_bytes(fleet[node], plan.memory_margin)
        for node in plan.nodes
        if node in fleet
    )


def migration_of(
    plan: DeployedPlan, running: DeployedPlan, work: OpenWork, rates: Mapping[str, float], *, limit_s: float
) -> Migration:
    """What moving open requests from a running plan to another takes."""
    units = plan.model.manifest.units
    unit_kv_bytes, unit_state_bytes = [u.kv_bytes_per_token for u in units], [u.state_bytes for u in units]
    return estimate(
        transfers_between(running.ring, plan.ring, unit_kv_bytes, unit_state_bytes),
        work.positions,
        rates,
        plan.solution.predicted,
        chunk_tokens=plan.chunk_tokens,
        limit_s=limit_s,
        answer_tokens=work.answer_tokens,
        requests=work.requests,
    )
