"""How many batches of requests go round a plan's ring at the same time (pure).

In a cycle each of n open requests gets one token. They travel in batches of the same size, the last one of what is
left. No cycle is shorter than a pipeline's two bounds, and one of like batches reaches the larger of them:

    the largest batch once round the ring:  sum over stages of run(rows) + hop + link bytes of the rows but one
    the busiest node's work:                sum over batches and the node's stages of run(rows) + busy part of the hop

with hops of the stages that leave their node only. Fewer batches mean fewer and larger runs, which cost less per row
and keep a slow node just as busy; more batches fill the time that slow links take.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.stage_cost import StageCost, stage_costs
from schemas.codec import frames_per_message
from schemas.limits import MAX_BATCHES

TIE = 0.02
"""Figures are not known better: a cycle longer by no more than this share is as short, and fewer batches are fewer
messages."""


class Cycle:
    """What a cycle of a plan takes."""

    def __init__(self, problem: Problem, stages: Sequence[Stage]) -> None:
        self._ring_s = [0.0] * (problem.slots + 1)
        """By the rows of a batch."""
        busy_s: dict[str, list[float]] = {}
        for index, (stage, cost) in enumerate(zip(stages, stage_costs(problem, stages), strict=True)):
            device = problem.device_by_name[stage.node]
            hop_s, hop_busy_s = (device.hop_s, device.hop_busy_s) if cost.leaves else (0.0, 0.0)
            carries_rows = cost.leaves and index + 1 < len(stages)  # the last stage sends tokens
            row_s = problem.row_s(device) if carries_rows else 0.0
            mine = busy_s.setdefault(stage.node, [0.0] * (problem.slots + 1))
            for rows in range(1, problem.slots + 1):
                self._ring_s[rows] += _run_s(cost, rows) + hop_s + (rows - 1) * row_s
                mine[rows] += _run_s(cost, rows) + hop_busy_s
        self._busy_s = tuple(busy_s.values())
        """By node, then as above."""

    def seconds(self, requests: int, batches: int) -> float:
        """A token for each of so many requests, in batches of the size that makes it so many at the most."""
        size = -(-requests // batches)
        full, left = divmod(requests, size)
        return max(self._ring_s[size], max(full * busy_s[size] + busy_s[left] for busy_s in self._busy_s))


def _run_s(cost: StageCost, rows: int) -> float:
    # What was measured is noisy: a straight line through it may fall.
    return max(cost.token_s, cost.run_s(rows))


def batches_in_flight(problem: Problem, stages: Sequence[Stage]) -> tuple[int, ...]:
    """How many batches make the shortest cycle, for 1, 2, ... open requests up to the problem's slots."""
    cycle = Cycle(problem, stages)
    rows_per_message = frames_per_message(problem.activation_bytes, problem.max_message_bytes)
    return tuple(_best(cycle, requests, rows_per_message) for requests in range(1, problem.slots + 1))


def _best(cycle: Cycle, requests: int, rows_per_message: int) -> int:
    # Of numbers that make batches of the same size the least is how many there are.
    fewest = {-(-requests // batches): batches for batches in range(min(requests, MAX_BATCHES), 0, -1)}
    fitting = [batches for size, batches in fewest.items() if size <= rows_per_message] or [max(fewest.values())]
    cycles_s = {batches: cycle.seconds(requests, batches) for batches in fitting}
    least_s = min(cycles_s.values())
    return min(batches for batches, cycle_s in cycles_s.items() if cycle_s <= least_s * (1 + TIE))
