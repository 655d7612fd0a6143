"""The partition of the fleet: which nodes serve in which pipeline (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.planning.problem import Objective, Problem
from orchestrator.planning.solution import Solution
from orchestrator.planning.solver.replicas import Replicas, plan_replicas
from orchestrator.planning.solver.solve import solve
from orchestrator.timing import MOST_PIPELINES

Group = frozenset[str]
WORTH_FORCED = 1e-3
"""Pipelines at work are changed for a gain above this share when somebody asks for a new plan."""


@dataclass(frozen=True)
class Division:
    """A division of the fleet: groups of nodes that share none, each a pipeline, and tokens per second of all."""

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
    rates = [_rate(problem.only(group)) for group in stay]
    more = pipelines - len(stay) if pipelines else None
    rest = _dealt(problem.only(here - taken), more) if here - taken and more != 0 else NOTHING
    staying = Division((*stay, *rest.groups), sum(rates) + rest.tokens_per_s)
    if pipelines and len(anew.groups) != len(staying.groups):
        return max(anew, staying, key=lambda division: min(len(division.groups), pipelines))
    return anew if anew.tokens_per_s > staying.tokens_per_s * (1 + margin) else staying


def _dealt(problem: Problem, pipelines: int | None) -> Division:
    found = plan_replicas(problem, prove=False, pipelines=pipelines)
    if not isinstance(found, Replicas):
        return NOTHING
    return Division(tuple(frozenset(pipeline.nodes) for pipeline in found.pipelines), found.tokens_per_s_many)


def _rate(problem: Problem) -> float:
    answer = solve(replace(problem, objective=Objective.THROUGHPUT, streams=None), prove=False)
    return answer.predicted.tokens_per_s_many if isinstance(answer, Solution) else 0.0


def assign(groups: Sequence[Group], at_work: Mapping[str, Group], service: str) -> dict[str, Group]:
    """Name a pipeline for each group.

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
    """Names of the pipelines that a service may have, in order."""
    return [service, *(f"{service}-{number}" for number in range(2, MOST_PIPELINES + 1))]
