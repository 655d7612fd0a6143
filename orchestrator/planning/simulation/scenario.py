"""What a simulation is given and what it counts: workload, events, the balancer's view, the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.planning.problem import Problem, Stage


@dataclass(frozen=True)
class Workload:
    """The questions that are asked: by `streams` readers, or `arrivals_per_s` at random.

    Readers ask again as soon as they have an answer. Figures count from `warmup_s` on. `jitter` is the standard
    deviation of the logarithm of job times.
    """

    streams: int | None = 1
    arrivals_per_s: float | None = None
    prompt_tokens: int = 128
    answer_tokens: int = 64
    duration_s: float = 60.0
    warmup_s: float = 0.0
    seed: int = 0
    jitter: float = 0.0
    reload_s: float = 2.0
    """How long a lost pipeline takes to load its new plan."""
    balance_every_s: float = 1.0


@dataclass(frozen=True)
class FleetEvent:
    """At `at_s` a device changes its speed (1.0: as planned), leaves (`alive` False) or comes back."""

    at_s: float
    device: str
    speed: float | None = None
    alive: bool | None = None


@dataclass(frozen=True)
class StageObservation:
    """What a node says of one stage: seconds and requests of a decode run (EWMA), positions computed so far."""

    stage: int
    run_s: float
    rows: float
    positions: int


@dataclass(frozen=True)
class NodeObservation:
    """A node as a balancer sees it: seconds per decode token (EWMA, None before the first) and its queue.

    ``stages`` are those that have decoded.
    """

    node: str
    token_s: float | None
    queued: int
    alive: bool
    stages: tuple[StageObservation, ...] = ()


@dataclass(frozen=True)
class Observation:
    """One pipeline at one moment; of its open requests: how many, tokens to come, positions with a KV row."""

    time_s: float
    pipeline: int
    stages: tuple[Stage, ...]
    nodes: tuple[NodeObservation, ...]
    requests: int = 0
    remaining_tokens: int = 0
    positions: int = 0
    asked_tokens: int = 0
    """Of all requests that the pipeline ever got."""


@dataclass(frozen=True)
class Move:
    """A live move to other stages; stage 0 is held for `pause_s` once the ring has run empty."""

    stages: tuple[Stage, ...]
    pause_s: float


class Balancer(Protocol):
    """Looks at every pipeline every `balance_every_s` and may move it."""

    def decide(self, observation: Observation) -> Move | None: ...


Replan = Callable[[Problem], tuple[Stage, ...] | None]
"""Stages for what is left of a fleet, or None when it can't hold the model."""


@dataclass(frozen=True)
class Happening:
    """A line of the simulation's diary."""

    at_s: float
    text: str


@dataclass
class Record:
    """What was counted; times in seconds, in order of occurrence."""

    token_times_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    token_gap_s: list[float] = field(default_factory=list)
    finished: int = 0
    busy_s: dict[str, float] = field(default_factory=dict)
    longest_queue: dict[str, int] = field(default_factory=dict)
    diary: list[Happening] = field(default_factory=list)
