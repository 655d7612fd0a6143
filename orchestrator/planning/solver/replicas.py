"""Several pipelines from one fleet: when it can hold the model more than once, split it for throughput.

How many pipelines, and who is in which, is a partitioning problem with no quick exact answer. Up to
`EXACT_DEVICES` devices every partition is tried (a dynamic programme over sets of devices); above that, pipelines
are dealt out by memory for a range of counts and improved by a fixed number of seeded moves. The result says how
far it is from `fluid_bound`: what the fleet would give if work could be cut at will and memory did not matter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.cost import check, pass_s
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Objective, Problem
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.infeasible import explain_infeasible
from orchestrator.planning.solver.runform import BOTH_ENDS, EMBED_END, ENDS, HEAD_END, RunForm
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.unit_run import UnitRun
from schemas.units import BLOCK, EMBED, HEAD

EXACT_DEVICES = 8
COUNTS_TRIED = 12
MOVES = 2500
IMPROVED = 4
GRID = 32
GRID_ROUNDS = 3
RATE_TIE = 1e-4


@dataclass(frozen=True)
class Replicas:
    """Pipelines that share no device, the devices left out, and the tokens per second of all streams together."""

    pipelines: tuple[Solution, ...]
    unused: tuple[str, ...]
    tokens_per_s_many: float
    bound_tokens_per_s: float
    solve_s: float = field(default=0.0, compare=False)

    @property
    def gap(self) -> float:
        """How much more than this any plan could give at most, relative to the bound."""
        return max(0.0, 1 - self.tokens_per_s_many / self.bound_tokens_per_s)


Group = frozenset[int]


class Rates:
    """Tokens per second of a group of devices as one pipeline, to about 1e-4, remembered by group.

    The same count as `RunForm.missing_blocks`, for a whole grid of bottleneck limits at once: groups are tried by
    the thousand. What is chosen in the end is solved exactly.
    """

    def __init__(self, problem: Problem) -> None:
        self.form = RunForm(_as_run_form(problem))
        devices = self.form.devices
        self.room = np.array(self.form.rooms(), dtype=np.float64)
        """Most blocks by device and ends; -1 where the ends do not fit."""
        self.fixed_s = np.array([[self.form.load_s(device, 0, ends) for ends in ENDS] for device in devices])
        self.block_s = np.array([max(device.batched_s[1], 1e-12) for device in devices])
        whole_s = self.fixed_s[:, BOTH_ENDS] + self.block_s * self.form.blocks
        busy_s = np.array([device.hop_busy_s for device in devices])
        alone = [not check(problem, problem.alone(device)) for device in devices]
        self.alone_s = np.where(alone, whole_s - busy_s, math.inf)
        self.slowest_s = float(whole_s.max())
        self._known: dict[Group, float] = {}

    @property
    def count(self) -> int:
        return len(self.block_s)

    def of(self, group: Group) -> float:
        """Tokens per second of the group's best pipeline; 0 when it can't hold the model."""
        if group not in self._known:
            self._known[group] = self._rate(np.array(sorted(group), dtype=np.intp)) if group else 0.0
        return self._known[group]

    def _rate(self, members: NDArray[np.intp]) -> float:
        shortest = float(self.alone_s[members].min())
        low, high = 0.0, min(self.slowest_s, shortest)
        for _ in range(GRID_ROUNDS):
            limits = np.linspace(low, high, GRID + 1)[1:]
            enough = self._placed(members, limits) >= self.form.blocks
            if not enough[-1]:
                break
            first = int(enough.argmax())
            low, high = (limits[first - 1] if first else low), float(limits[first])
            shortest = min(shortest, high)
        return 0.0 if shortest in (0.0, math.inf) else 1.0 / shortest

    def _placed(self, members: NDArray[np.intp], limits_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Most blocks the group can hold with both ends placed, per limit; -inf where an end does not fit."""
        spare = limits_s[:, None, None] - self.fixed_s[members]
        blocks = np.minimum(np.floor(spare / self.block_s[members][:, None]), self.room[members])
        blocks = np.where((spare < 0) | (blocks < 0), -np.inf, blocks)
        plain = np.maximum(blocks[:, :, 0], 0)
        gain = blocks - plain[:, :, None]
        embed, head = gain[:, :, EMBED_END], gain[:, :, HEAD_END]
        rows = np.arange(len(limits_s))
        best = gain[:, :, BOTH_ENDS].max(axis=1)
        # The embedding's best holder with the best other head, and the other way round.
        for one, other in ((embed, head), (head, embed)):
            holder = one.argmax(axis=1)
            rest = other.copy()
            rest[rows, holder] = -np.inf
            best = np.maximum(best, one[rows, holder] + rest.max(axis=1))
        placed: NDArray[np.float64] = plain.sum(axis=1) + best
        return placed


def plan_replicas(problem: Problem, *, prove: bool = True, pipelines: int | None = None) -> Replicas | Infeasible:
    """Partition the fleet into pipelines for the most tokens per second over all of them.

    ``pipelines`` asks for that many, or for as many as the fleet can hold; None takes what gives most.

    Raises:
        PlanningError: the problem pins units to nodes, which one pipeline alone can honour.
    """
    if problem.constraints.pins:
        raise PlanningError("pinned units belong to one pipeline: drop the pins or plan without replicas")
    problem = replace(problem, objective=Objective.THROUGHPUT, streams=None)
    if not problem.eligible:
        return explain_infeasible(problem)
    rates = Rates(problem)
    partition = _every_partition if rates.count <= EXACT_DEVICES else _deal_and_improve
    groups = partition(rates, pipelines)
    found = []
    for group in groups:
        answer = solve(problem.only({problem.eligible[index].name for index in group}), prove=prove)
        if isinstance(answer, Solution):
            found.append(answer)
    if not found:
        whole = solve(problem, prove=prove)
        if isinstance(whole, Infeasible):
            return whole
        found = [whole]
    used = {node for pipeline in found for node in pipeline.nodes}
    return Replicas(
        tuple(found),
        tuple(device.name for device in problem.devices if device.name not in used),
        sum(pipeline.predicted.tokens_per_s_many for pipeline in found),
        fluid_bound(problem),
    )


def fluid_bound(problem: Problem) -> float:
    """Tokens per second no set of pipelines can pass: every device computes all the time at what it is best at.

    Weights w[r] >= 0 on the runs bound any plan: with value(token) = sum B[r] w[r], device d earns at most
    max_r w[r] / c[d, r] per second, so rate <= sum_d earning / value. Weights equal to the fleet's mean cost of
    each run give a bound that is exact when devices differ by a factor only. A run that costs some device nothing, as
    far as it could be measured, has no weight: of that there could be any number.
    """
    costs = list(zip(*(device.batched_s for device in problem.eligible), strict=True))
    weights = [sum(seconds) / len(seconds) if all(seconds) else 0.0 for seconds in costs]
    value = pass_s(problem, weights)
    earned = sum(
        max(weight / seconds for weight, seconds in zip(weights, device.batched_s, strict=True) if seconds)
        for device in problem.eligible
        if any(device.batched_s)
    )
    return earned / value if value else math.inf


def _as_run_form(problem: Problem) -> Problem:
    """The problem itself, or for an uneven chain one with like blocks of the mean cost and the largest size."""
    if RunForm.applies(problem):
        return problem
    runs = [problem.runs[index] for index in problem.run_of_unit]
    if len(runs) < 3:
        raise PlanningError("a chain of fewer than 3 units can't be replicated: plan it as one pipeline")
    inner = runs[1:-1]

    def mean(figures: tuple[float, ...]) -> tuple[float, float, float]:
        of_unit = [figures[index] for index in problem.run_of_unit]
        return of_unit[0], sum(of_unit[1:-1]) / len(inner), of_unit[-1]

    like = UnitRun(
        BLOCK,
        1,
        len(inner),
        max(run.weight_bytes for run in inner),
        max(run.kv_bytes_per_token for run in inner),
        disk_bytes=max(run.stored_bytes for run in inner),
        state_bytes=max(run.state_bytes for run in inner),
        kv_spread_bytes=sum(run.kv_spread_bytes for run in inner),
    )
    devices = tuple(
        replace(
            device,
            decode_s=mean(device.decode_s),
            prefill_s=mean(device.prefill_s),
            decode_batched_s=mean(device.batched_s),
        )
        for device in problem.devices
    )
    ends = replace(runs[0], kind=EMBED, start=0, count=1), replace(runs[-1], kind=HEAD, start=len(runs) - 1, count=1)
    return replace(problem, runs=(ends[0], like, ends[1]), devices=devices, incumbent=())


def _every_partition(rates: Rates, pipelines: int | None) -> list[Group]:
    """The best set of disjoint groups among all of them: of that many groups, or of the largest number there is."""
    most = pipelines or rates.count
    best: list[dict[int, tuple[float, list[Group]]]] = [{0: (0.0, [])}]
    """By devices looked at (a mask), then by the number of groups."""
    for mask in range(1, 1 << rates.count):
        lowest = mask & -mask
        rest = mask ^ lowest
        found = dict(best[rest])  # the lowest device left out
        subset = rest
        while True:
            group = frozenset(index for index in range(rates.count) if (subset | lowest) >> index & 1)
            rate = rates.of(group)
            for groups, (others_rate, others) in best[rest ^ subset].items() if rate > 0 else ():
                if groups < most and rate + others_rate > found.get(groups + 1, (0.0, []))[0]:
                    found[groups + 1] = (rate + others_rate, [group, *others])
            if subset == 0:
                break
            subset = (subset - 1) & rest
        best.append(found)
    found = best[-1]
    if pipelines is not None:
        return found[max(found)][1]
    # Among equals, more pipelines: each answer then makes fewer hops.
    highest = max(rate for rate, _ in found.values())
    return next(groups for _, (rate, groups) in sorted(found.items(), reverse=True) if rate >= highest * (1 - RATE_TIE))


def _deal_and_improve(rates: Rates, pipelines: int | None) -> list[Group]:
    """Try a range of pipeline counts and two ways to deal; improve the best few; keep the best."""
    rooms = rates.room.max(axis=1)
    most = max(1, int(np.maximum(rooms, 0).sum()) // max(1, rates.form.blocks))
    if pipelines is None:
        counts = sorted({max(1, round(most * (step + 1) / COUNTS_TRIED)) for step in range(COUNTS_TRIED)})
        return _deal_into(rates, rooms, counts)
    groups: list[Group] = []
    for count in range(min(pipelines, most), 0, -1):
        groups = max(groups, _deal_into(rates, rooms, [count]), key=len)
        if len(groups) == count:
            break
    return groups


def _deal_into(rates: Rates, rooms: NDArray[np.float64], counts: Sequence[int]) -> list[Group]:
    """The best of these numbers of groups; those that can't hold the model are left out."""
    dealt = [deal(rates, rooms, pipelines) for pipelines in counts for deal in (_deal_by_room, _deal_by_speed)]
    dealt.sort(key=lambda groups: -_total(rates, groups))
    improved = [_improve(rates, groups) for groups in dealt[:IMPROVED]]
    return [group for group in max(improved, key=lambda groups: _total(rates, groups)) if rates.of(group) > 0]


def _total(rates: Rates, groups: Sequence[Group]) -> float:
    return sum(rates.of(group) for group in groups)


def _deal_by_room(rates: Rates, rooms: NDArray[np.float64], pipelines: int) -> list[Group]:
    """Largest room first, always to the group with the least room so far; equal rooms by speed."""
    groups: list[list[int]] = [[] for _ in range(pipelines)]
    filled = [0.0] * pipelines
    for index in sorted(range(rates.count), key=lambda index: (-rooms[index], rates.block_s[index])):
        least = min(range(pipelines), key=lambda place: (filled[place], place))
        groups[least].append(index)
        filled[least] += max(float(rooms[index]), 0.0)
    return [frozenset(group) for group in groups]


def _deal_by_speed(rates: Rates, rooms: NDArray[np.float64], pipelines: int) -> list[Group]:
    """Like with like: devices by speed, cut into groups of about the same room."""
    share = float(np.maximum(rooms, 0).sum()) / pipelines
    groups: list[list[int]] = [[] for _ in range(pipelines)]
    filled = 0.0
    for index in sorted(range(rates.count), key=lambda index: float(rates.block_s[index])):
        groups[min(pipelines - 1, int(filled / share)) if share else 0].append(index)
        filled += max(float(rooms[index]), 0.0)
    return [frozenset(group) for group in groups]


def _improve(rates: Rates, groups: list[Group]) -> list[Group]:
    """Move or exchange single devices between two groups while that raises the total, a fixed number of times."""
    groups = list(groups)
    draw = random.Random(0)
    for _ in range(MOVES if len(groups) > 1 else 0):
        one, other = draw.sample(range(len(groups)), 2)
        if not groups[one]:
            continue
        giving = {draw.choice(sorted(groups[one]))}
        taking = {draw.choice(sorted(groups[other]))} if groups[other] and draw.random() < 0.5 else set()
        trial = (groups[one] - giving | taking, groups[other] - taking | giving)
        if _total(rates, trial) > _total(rates, (groups[one], groups[other])) * (1 + 1e-9):
            groups[one], groups[other] = trial
    return groups


def answers_first(expected_s: Sequence[float]) -> int:
    """Index of the pipeline that would answer first; the first of equals."""
    return min(range(len(expected_s)), key=lambda index: (expected_s[index], index))
