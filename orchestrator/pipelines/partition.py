"""Which nodes serve in which pipeline, and when that is decided anew (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.planning.problem import Objective, Problem
from orchestrator.planning.replicas import Replicas, plan_replicas
from orchestrator.planning.solution import Solution
from orchestrator.planning.solver.solve import solve
from orchestrator.service.config import MOST_PIPELINES

Group = frozenset[str]
WORTH_IT = 0.05
"""Pipelines at work are changed only for a predicted gain above this share."""
WORTH_FORCED = 1e-3
"""The same when somebody asks for a new plan."""


@dataclass(frozen=True)
class Division:
    """Groups of nodes that share none, each a pipeline, and the tokens per second of all together."""

    groups: tuple[Group, ...]
    tokens_per_s: float


NOTHING = Division((), 0.0)


def divide(problem: Problem, kept: Sequence[Group], *, pipelines: int | None, margin: float) -> Division:
    """Deal the fleet out to pipelines. Nothing comes out of a fleet that can't hold the model.

    Args:
        kept: Pipelines at work. They stay as they are, and what is left forms others, unless dealing out all anew
            gives more than ``margin`` (a share) above that.
        pipelines: How many there are to be, as far as the fleet can hold them; None: as many as give most.

    Raises:
        PlanningError: pinned units, or a model of fewer than 3 units: one pipeline is all there is.
    """
    anew = _dealt(problem, pipelines)
    if not kept:
        return anew
    here = {device.name for device in problem.devices}
    taken = frozenset().union(*kept) & here
    stay = [group & here for group in kept]
    rates = [_rate(_of(problem, group)) for group in stay]
    more = pipelines - len(stay) if pipelines else None
    rest = _dealt(_of(problem, here - taken), more) if here - taken and more != 0 else NOTHING
    staying = Division((*stay, *rest.groups), sum(rates) + rest.tokens_per_s)
    if pipelines and len(anew.groups) != len(staying.groups):
        return max(anew, staying, key=lambda division: min(len(division.groups), pipelines))
    return anew if anew.tokens_per_s > staying.tokens_per_s * (1 + margin) else staying


def _of(problem: Problem, nodes: Iterable[str]) -> Problem:
    return replace(problem, devices=tuple(device for device in problem.devices if device.name in set(nodes)))


def _dealt(problem: Problem, pipelines: int | None) -> Division:
    found = plan_replicas(problem, prove=False, pipelines=pipelines)
    if not isinstance(found, Replicas):
        return NOTHING
    return Division(tuple(frozenset(pipeline.nodes) for pipeline in found.pipelines), found.tokens_per_s_many)


def _rate(problem: Problem) -> float:
    answer = solve(replace(problem, objective=Objective.THROUGHPUT, streams=None), prove=False)
    return answer.predicted.tokens_per_s_many if isinstance(answer, Solution) else 0.0


def assign(groups: Sequence[Group], at_work: Mapping[str, Group], service: str) -> dict[str, Group]:
    """A pipeline's name for each group.

    ``at_work``: pipelines by name, with the nodes they work on (none, for one that rests). Each keeps the group that
    it shares most nodes with; other groups take the first names that are free.
    """
    names = list(at_work)
    pairs = [
        (-len(group & at_work[name]), names.index(name), index)
        for name in names
        for index, group in enumerate(groups)
        if group & at_work[name]
    ]
    given: dict[int, str] = {}
    for _, place, index in sorted(pairs):
        if index not in given and names[place] not in given.values():
            given[index] = names[place]
    free = (name for name in pipeline_names(service) if name not in given.values())
    others = sorted((index for index in range(len(groups)) if index not in given), key=lambda i: sorted(groups[i]))
    given |= {index: next(free) for index in others}
    return {given[index]: group for index, group in enumerate(groups)}


def pipeline_names(service: str) -> list[str]:
    """Of the pipelines that a service may have, in order."""
    return [service, *(f"{service}-{number}" for number in range(2, MOST_PIPELINES + 1))]


class Divider:
    """When the fleet is to be divided: once it has settled, whenever it is not the one that was divided last."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._not_before_s = 0.0
        self._seen: object = None
        self._done: object = None
        self._due_s = math.inf
        self.job: int | None = None
        """The worker is at it."""
        self.forced = False

    @property
    def pending(self) -> bool:
        """Is it under way, or due?"""
        return self.job is not None or self._due_s < math.inf

    def start(self, not_before_s: float) -> None:
        """Do nothing before this."""
        self._not_before_s = not_before_s

    def force(self, now_s: float) -> None:
        """Divide as soon as possible; what gains a little is enough."""
        self.forced = True
        self._due_s = max(now_s, self._not_before_s)

    def notice(self, fleet: object, now_s: float) -> None:
        """What there is to divide now; ``fleet`` is anything that is equal when nothing has changed."""
        if fleet != self._seen:
            self._seen = fleet
            if not self.forced:
                changed = fleet != self._done
                self._due_s = max(now_s + self._settle_s, self._not_before_s) if changed else math.inf

    def is_due(self, now_s: float) -> bool:
        """Is it time, and the worker not at it?"""
        return self.job is None and now_s >= self._due_s

    def wait_until(self, until_s: float) -> None:
        """Something is missing that will have come by then."""
        self._due_s = until_s

    def begin(self, job: int | None) -> None:
        """What was last noticed is being divided; without a job, it is."""
        self.job = job
        self._done = self._seen
        self._due_s = math.inf

    def end(self) -> bool:
        """The worker has answered.

        Returns:
            Whether somebody had forced it.
        """
        self.job = None
        forced, self.forced = self.forced, False
        return forced

    def next_deadline_s(self) -> float:
        """When ``is_due`` becomes true by time alone."""
        return self._due_s if self.job is None else math.inf
