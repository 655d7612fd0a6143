"""A live move over real nodes by the bare protocol: what the orchestrator does, without deciding anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.codec import request_number
from schemas.handover import kv_copies
from schemas.messages import Basis, CopyKv, FinishKv, HoldRequests, KvTarget, Plan
from tests.support.ring import PIPELINE, Ring


def move(
    ring: Ring,
    homes: Mapping[str, Path],
    nodes: Sequence[str],
    cuts: Sequence[int],
    *,
    before_hold: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Move the ring's plan to other nodes or boundaries; ``options`` are those of the plan."""
    switch(ring, prepare(ring, homes, nodes, cuts, **options), before_hold=before_hold)


def prepare(
    ring: Ring, homes: Mapping[str, Path], nodes: Sequence[str], cuts: Sequence[int], **options: Any
) -> Plan:  # fmt: skip
    """Have the layers loaded where they are to go."""
    assert ring.plan
    basis = Basis(epoch=ring.plan.epoch, ring=ring.plan.ring)
    return ring.prepare(homes, cuts, order=nodes, basis=basis, **options)


def switch(ring: Ring, plan: Plan, *, before_hold: Callable[[], None] = lambda: None) -> None:
    """Go on in a plan that is prepared, with the KV rows of all requests."""
    assert ring.plan
    basis = ring.plan
    ring.copied.clear()
    ring.held.clear()
    targets: dict[int, list[KvTarget]] = defaultdict(list)
    for copy in kv_copies(basis.ring, plan.ring, plan.ring[-1].stop):
        node = plan.ring[copy.target].node
        targets[copy.source].append(KvTarget(stage=copy.target, node=node, start=copy.start, stop=copy.stop))
    for source, wanted in targets.items():
        command = CopyKv(pipeline=PIPELINE, epoch=basis.epoch, stage=source, to_epoch=plan.epoch, targets=tuple(wanted))
        ring.command(basis.ring[source].node, command)
    ring.wait("sources that caught up", lambda: len(ring.copied) == len(targets))
    before_hold()
    ring.command(basis.ring[0].node, HoldRequests(pipeline=PIPELINE, epoch=basis.epoch, limit_s=30.0))
    ring.wait("held requests", lambda: bool(ring.held))
    held = ring.held[0].requests
    for source in targets:
        finish = FinishKv(pipeline=PIPELINE, epoch=basis.epoch, stage=source, requests=held)
        ring.command(basis.ring[source].node, finish)
    ring.wait("the last rows", lambda: len(ring.copied) == 2 * len(targets))
    assert all(copied.final for copied in ring.copied[len(targets) :])
    for request in held:
        answer = ring.answers[request_number(request.request)]
        known = request.tokens - len(answer.prompt_ids)
        ring.wait("tokens before the move", lambda: len(answer.ids) >= known)  # noqa: B023
        ids = [*answer.prompt_ids, *answer.ids]
        ring.open_stages(answer, plan, ids, moved_tokens=request.valid_tokens)
    ring.commit(plan)
