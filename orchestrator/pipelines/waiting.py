"""What the requests of a pipeline wait for, in words for their readers (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from orchestrator.deployment.plan import DeployedPlan, NoPlan
from orchestrator.effects import Effect
from orchestrator.pipelines.pipeline_nodes import PipelineNodes
from orchestrator.replanning.adopter import Adopter
from orchestrator.replanning.report import PlanningReport
from orchestrator.requests.patience import WaitsFor
from orchestrator.requests.scheduler import RequestScheduler
from orchestrator.requests.session import Phase
from orchestrator.requests.session_table import SessionTable
from orchestrator.text.figures import progress_text
from orchestrator.timing import Timing
from schemas.messages import FetchProgress


class Waiting(Protocol):
    """A pipeline whose requests wait."""

    requests: RequestScheduler
    report: PlanningReport
    adopter: Adopter

    @property
    def is_serving(self) -> bool:
        """May a request be opened now, as soon as a slot is free?"""

    def state(self) -> str:
        """The state in a word or two for people."""

    def progress(self) -> dict[str, FetchProgress]:
        """Bytes of the segments on their way to its nodes."""


def wanted_back(plan: DeployedPlan | None, missing: Iterable[str], nodes: PipelineNodes) -> list[str]:
    """The nodes of the last plan that requests without a ring wait for: those not here, and those that rest."""
    resting = {name: nodes.nodes[name].resting for name in plan.nodes if name in nodes.nodes} if plan else {}
    names = sorted({*missing, *(name for name, why in resting.items() if why)})
    return [f"{name} ({resting[name]})" if resting.get(name) else name for name in names]


def waits_for(pipeline: Waiting, lost: Iterable[str], why_none: NoPlan | None) -> WaitsFor:
    """What requests without a ring wait for.

    ``lost``: nodes of the last plan that are not here, or rest. ``why_none``: why there is no plan, nor one on its way.
    """
    nodes = ", ".join(lost)
    if why_none and nodes:
        return WaitsFor(f"node {nodes}: {why_none.reason}", why_none.code, missing=True)
    if why_none:
        return WaitsFor(why_none.reason, why_none.code, missing=True, noun="a plan")
    if pipeline.is_serving:
        return WaitsFor(_turn_text(pipeline.requests.open_count), "busy")
    fetching = [
        f"{node} has {progress_text(part.done_bytes, part.total_bytes)}"
        for node, part in sorted(pipeline.progress().items())
        if part.done_bytes < part.total_bytes
    ]
    failure = pipeline.report.last_failure
    last = [f"last failure: {failure}"] if failure else []
    left = [pipeline.adopter.waiting] if pipeline.adopter.waiting else []
    state = ", ".join((pipeline.state(), *left, *fetching, *last))
    return WaitsFor(f"a plan without {nodes}: {state}" if nodes else f"a plan: {state}", "not_ready")


def _turn_text(before: int) -> str:
    if not before:
        return "its turn"
    return "its turn: " + ("1 answer is being computed" if before == 1 else f"{before} answers are being computed")


def tell_silent(
    sessions: SessionTable, nodes: PipelineNodes, standing: str, timing: Timing, now_s: float
) -> list[Effect]:
    """Tell the readers of open requests that have stood still for a while why.

    ``standing``: what the whole ring waits for; empty while it has all of its nodes.
    """
    effects: list[Effect] = []
    for session in sessions.in_phase(Phase.OPEN):
        if now_s >= session.tell_due_s:
            assert session.placement
            session.tell_due_s = -math.inf  # looked at once a second, told when that is news
            silent = nodes.silent(session.placement.ring, now_s)
            unheard = f"node {', '.join(silent)}, of which nothing is heard" if silent else ""
            effects += session.tell_waiting(standing or unheard or session.overdue(), now_s, timing)
            session.tell_due_s = now_s + timing.tell_s
    return effects
