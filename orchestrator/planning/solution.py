"""The planner's answer: stages with everything predicted about them, or why there is no plan."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from orchestrator.planning.problem import Objective, Problem, Stage


class Status(enum.Enum):
    """How much is known about a plan."""

    OPTIMAL = "optimal"
    """Proven: no plan is better in the asked objective."""
    FEASIBLE_GAP = "feasible_gap"
    """Verified, and at most `gap` worse than the best possible."""
    BASELINE = "baseline"
    """Made by a simple rule for comparison; nothing is claimed about it."""


@dataclass(frozen=True)
class StageFigures:
    """One stage as predicted. Times are for one token of one stream, except `prefill_s` (the whole prompt);
    `draft_bytes` are those of a draft model, its caches included, beside what the units take."""

    node: str
    start: int
    stop: int
    decode_s: float
    hop_s: float
    prefill_s: float
    weight_bytes: int
    kv_bytes: int
    draft_bytes: int = 0


@dataclass(frozen=True)
class NodeFigures:
    """One node as predicted, over all stages it holds. `load_s` is its busy time per token with many streams."""

    node: str
    units: int
    load_s: float
    memory_bytes: int
    memory_limit_bytes: int
    stored_bytes: int
    storage_limit_bytes: int | None


@dataclass(frozen=True)
class Prediction:
    """What a plan should do when it runs.

    `decode_s` is one stream's time per token (TPOT), `bottleneck_s` the busiest node's time per token,
    `ttft_s` the time to first token for a prompt of `prompt_tokens`.
    """

    stages: tuple[StageFigures, ...]
    nodes: tuple[NodeFigures, ...]
    decode_s: float
    bottleneck_s: float
    bottleneck_node: str
    ttft_s: float
    prompt_tokens: int
    tokens_per_s: float
    tokens_per_s_many: float

    def stream_token_s(self, streams: int) -> float:
        """Time per token of each of so many streams: they share the bottleneck."""
        return max(self.decode_s, streams * self.bottleneck_s)

    def of_node(self, name: str) -> NodeFigures:
        return next(node for node in self.nodes if node.node == name)


@dataclass(frozen=True)
class Standby:
    """Units [start, stop) of a neighbour that `node` keeps on disk; [warm_start, warm_stop) of them in memory.

    The range touches the boundary of the node's own stage, the warm range too, so that boundary can move over it.
    """

    node: str
    start: int
    stop: int
    warm_start: int
    warm_stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Solution:
    """A plan that covers every unit once within all limits, checked after the solver.

    `objective_value` is in seconds (the quantity the objective minimises). `gap` is relative: 0.0 when proven.
    `solver` names who proved it; `solver_gap` is what the MILP solver itself had left when its time was up.
    `solver_note` says which solver is installed but does not work.
    """

    status: Status
    objective: Objective
    stages: tuple[Stage, ...]
    predicted: Prediction
    objective_value: float
    gap: float
    solver: str
    solver_gap: float = 0.0
    solver_note: str = field(default="", compare=False)
    solve_s: float = field(default=0.0, compare=False)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes used, in ring order, each once."""
        return tuple(dict.fromkeys(stage.node for stage in self.stages))


@dataclass(frozen=True)
class Infeasible:
    """No plan exists: why, by how much, and the smallest change that would allow one."""

    reason: str
    missing_bytes: int
    smallest_fix: str
    fixes: tuple[str, ...] = ()
    rooms: tuple[tuple[str, int], ...] = ()
    """What each device that may take part has for units and their caches, in bytes."""
    fits: Problem | None = None
    """The same question with smaller KV caches, where they may be reduced and that helps, or else without a draft."""
