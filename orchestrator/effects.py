"""Effects: what the core asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.profile import Profile
from schemas.messages import (
    Epoch,
    Grammar,
    Plan,
    PlanConstraints,
    PlanView,
    ResponseTo,
    RoundedKv,
    StageRef,
    SubmitRequest,
    WireDtype,
)
from schemas.topics import NODE_COMMAND


@dataclass(frozen=True)
class Asker:
    """The client and the request that gave a command: where the answer goes."""

    client: str
    request: str
    response: ResponseTo | None = None
    """Where it goes instead of the topic that has both names."""


@dataclass(frozen=True)
class Publish:
    """Send a message."""

    topic: str
    message: Any
    qos: int = 1
    retain: bool = False
    correlation: str = ""
    """Comes back to who has asked for it; in hexadecimal."""


def respond(response: ResponseTo | None, message: object) -> list[Publish]:
    """The effect that sends an answer where it was wanted; none where nobody has said that."""
    return [Publish(response.topic, message, correlation=response.correlation)] if response else []


def command(node: str, message: object) -> Publish:
    """The effect that sends a command to a node."""
    return Publish(NODE_COMMAND.format(node=node), message)


@dataclass(frozen=True)
class OpenModel:
    """Load a model's manifest and tokenizer."""

    name: str
    kv_dtype: RoundedKv | None = None
    """What its keys and values are to be rounded to; None: they are not."""
    draft: str | None = None
    """The model that is to guess for it, if it can."""


@dataclass(frozen=True)
class EncodePrompt:
    """Make token ids of what a client asks, for a model."""

    request: str
    model: str
    submit: SubmitRequest


@dataclass(frozen=True)
class CompileGrammar:
    """Get the form of an answer ready, for a model."""

    request: str
    model: str
    grammar: Grammar


@dataclass(frozen=True)
class SolvePlan:
    """Ask the planner."""

    job: int
    problem: Problem


@dataclass(frozen=True)
class PreviewPlan:
    """Ask the planner and let it explain its answer, without further consequences.

    ``job`` is a number below 0. ``pipelines``: how many the fleet would be divided into; None: as many as give most.
    """

    job: int
    problem: Problem
    pipelines: int | None = 1


@dataclass(frozen=True)
class CheckPlan:
    """Ask the planner whether there is a plan at all, or why not. ``job`` is a number below 0."""

    job: int
    problem: Problem


@dataclass(frozen=True)
class DivideFleet:
    """Ask the planner for several pipelines; see `partition.divide`."""

    job: int
    problem: Problem
    kept: tuple[frozenset[str], ...]
    pipelines: int | None
    margin: float


@dataclass(frozen=True)
class Listen:
    """Subscribe to the tokens of one pipeline more."""

    pipeline: str


@dataclass(frozen=True)
class BuildSegments:
    """Assemble the graph of each stage."""

    job: int
    model: str
    ring: tuple[StageRef, ...]
    wire_dtype: WireDtype
    positions: int
    """That a text may have, dummies behind it included."""
    draft: str | None = None
    """The model that guesses on the last stage's node."""
    draft_positions: int = 0
    """The same of the draft model."""


@dataclass(frozen=True)
class EvaluatePlan:
    """Work out the figures of a plan that is given, on nodes as they are."""

    job: int
    problem: Problem
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class PlanStandby:
    """Ask the planner which units of its neighbours each node should keep on its disk, for a plan in force."""

    pipeline: str
    epoch: Epoch
    problem: Problem
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class LimitMessages:
    """Send no longer payloads: the broker does not pass them on, as it announces or as nodes have found."""

    max_bytes: int


@dataclass(frozen=True)
class SaveEpoch:
    """Remember that this epoch was used; done before anything of the epoch is published."""

    epoch: Epoch


@dataclass(frozen=True)
class SavePlan:
    """Add a committed plan to the history."""

    epoch: Epoch
    plan: PlanView


@dataclass(frozen=True)
class SaveRunning:
    """Remember the plan that is in force, or that none is any more; done before it is published."""

    plan: Plan


@dataclass(frozen=True)
class SaveProfile:
    """Remember what a node measured or was observed to do."""

    profile: Profile


@dataclass(frozen=True)
class SaveConstraints:
    """Remember what plans are to respect."""

    constraints: PlanConstraints


@dataclass(frozen=True)
class TellHistory:
    """Answer with the newest plans that were committed."""

    asker: Asker
    limit: int


@dataclass(frozen=True)
class SaveDrained:
    """Remember that an operator wants a node to be empty, or no longer."""

    node: str
    drained: bool


@dataclass(frozen=True)
class SaveLabel:
    """Remember what people call a node; empty: its name."""

    node: str
    label: str


@dataclass(frozen=True)
class TellEvents:
    """Answer with the newest events."""

    asker: Asker
    limit: int


@dataclass(frozen=True)
class SaveModelChoice:
    """An operator chose this model: it is served after a restart too."""

    model: str


@dataclass(frozen=True)
class SaveRequest:
    """Remember a request, so that the orchestrator's next start can go on with it."""

    submit: SubmitRequest


@dataclass(frozen=True)
class SaveOpened:
    """Remember the prompt with which a request was opened, and in which epoch."""

    request: str
    model: str
    prompt_ids: tuple[int, ...]
    epoch: str


@dataclass(frozen=True)
class SaveTokens:
    """Remember tokens of an answer, from the ``first`` on, and how long it took until there was one."""

    request: str
    first: int
    ids: tuple[int, ...]
    ttft_s: float


@dataclass(frozen=True)
class ForgetRequest:
    """Forget a request that ended."""

    request: str


@dataclass(frozen=True)
class Note:
    """A line for the log. Lines about a request begin with its id. With a ``kind`` it is an event for operators too:
    see `schemas.messages.FleetEvent`. No ``pipeline``: it concerns none, or all."""

    text: str
    warning: bool = False
    kind: str = ""
    node: str | None = None
    pipeline: str = ""


@dataclass(frozen=True)
class Halt:
    """End with this error."""

    reason: str


Effect = (
    Publish
    | OpenModel
    | EncodePrompt
    | CompileGrammar
    | SolvePlan
    | PreviewPlan
    | CheckPlan
    | BuildSegments
    | PlanStandby
    | EvaluatePlan
    | DivideFleet
    | Listen
    | LimitMessages
    | SaveEpoch
    | SavePlan
    | SaveRunning
    | SaveProfile
    | SaveConstraints
    | TellHistory
    | SaveDrained
    | SaveLabel
    | TellEvents
    | SaveModelChoice
    | SaveRequest
    | SaveOpened
    | SaveTokens
    | ForgetRequest
    | Note
    | Halt
)
