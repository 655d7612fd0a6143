"""The cost of a stage on its device, run by run: for the simulation, and for what a balancer expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planning.cost import leaves, stage_counts, unit_counts, weighted
from orchestrator.planning.problem import Problem, Stage
from schemas.messages import PROBE_BATCH


@dataclass(frozen=True)
class StageCost:
    """What one stage takes: per prompt token (head apart), a decode token, a full batch of them; its hop, if any."""

    prompt_token_s: float
    head_s: float
    token_s: float
    batch_s: float
    leaves: bool

    def run_s(self, rows: float) -> float:
        """Seconds of a decode run of so many requests."""
        return batched_run_s(self.token_s, self.batch_s, rows)


def batched_run_s(one_s: float, batch_s: float, rows: float) -> float:
    """A decode run of so many rows: on the straight line through one row and the batch that nodes measure."""
    return one_s + (batch_s - one_s) * (rows - 1) / (PROBE_BATCH - 1)


def stage_costs(problem: Problem, stages: Sequence[Stage]) -> tuple[StageCost, ...]:
    """What each stage of a plan takes on its device."""
    costs = []
    for index, stage in enumerate(stages):
        device = problem.device_by_name[stage.node]
        body, head = stage_counts(problem, stage)
        counts = unit_counts(problem, stage)
        costs.append(
            StageCost(
                prompt_token_s=weighted(body, device.prefill_s),
                head_s=weighted(head, device.decode_s),
                token_s=weighted(counts, device.decode_s),
                batch_s=PROBE_BATCH * weighted(counts, device.batched_s),
                leaves=leaves(stages, index),
            )
        )
    return tuple(costs)
