"""What the core is told, what it asks for, and the ports it uses. Frozen data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.model.manifest import Manifest
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Infeasible, Solution, Standby
from schemas.codec import Frame
from schemas.messages import (
    BlobRef,
    CancelRequest,
    ControlRequest,
    Epoch,
    KvLayer,
    NodeBirth,
    Plan,
    ProbePart,
    StageRef,
    SubmitRequest,
)
from schemas.topics import NODE_COMMAND

if TYPE_CHECKING:
    from orchestrator.profiles import Profile

# --- ports --------------------------------------------------------------------------------------------------------


class TextStream(Protocol):
    """Turns one answer's tokens into text, whole characters only."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""

    def finish(self) -> str:
        """What is left at the end."""


class Tokenizer(Protocol):
    """A model's tokenizer and chat template; ``orchestrator.model.tokenizer.ModelTokenizer`` is one."""

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation under the chat template, ready for the assistant's turn."""

    def stream(self) -> TextStream:
        """A fresh decoder for one answer."""


@dataclass(frozen=True)
class ServedModel:
    """A model opened for serving."""

    manifest: Manifest
    tokenizer: Tokenizer
    probe_parts: tuple[ProbePart, ...] = ()
    """What nodes measure themselves with; nothing: they are planned with the speed they report."""

    @property
    def name(self) -> str:
        return self.manifest.name


@dataclass(frozen=True, kw_only=True)
class BuiltSegment:
    """A stage's graph and weights, ready to be fetched from the blob server."""

    graph: BlobRef
    blobs: tuple[BlobRef, ...]
    kv_layers: tuple[KvLayer, ...]
    width_in: int
    width_out: int


# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BusUp:
    """Subscriptions are in force, for the first time or again."""

    reconnect: bool


@dataclass(frozen=True)
class BusDown:
    """The broker is out of reach: silence says nothing about the nodes."""


@dataclass(frozen=True)
class NodeSaid:
    """A message on one of a node's topics. ``retained``: it was stored before we subscribed."""

    node: str
    message: Any
    retained: bool = False


@dataclass(frozen=True)
class PlanHeard:
    """A plan on the bus: our own, one left by an earlier start, or a rival's."""

    plan: Plan
    retained: bool


@dataclass(frozen=True)
class TokensHeard:
    """A TOKENS frame, already checked by the codec."""

    pipeline: str
    sender: str
    frame: Frame


@dataclass(frozen=True)
class Submitted:
    """A client asks."""

    request: SubmitRequest


@dataclass(frozen=True)
class Cancelled:
    """A client lost interest."""

    client: str
    cancel: CancelRequest


@dataclass(frozen=True)
class Commanded:
    """An operator commands."""

    command: ControlRequest


@dataclass(frozen=True)
class ModelOpened:
    """Answer to ``OpenModel``."""

    name: str
    model: ServedModel


@dataclass(frozen=True)
class ModelUnusable:
    """Answer to ``OpenModel``: it can't be served."""

    name: str
    reason: str


@dataclass(frozen=True)
class PlanSolved:
    """Answer to ``SolvePlan``."""

    job: int
    outcome: Solution | Infeasible


@dataclass(frozen=True)
class PlanPreviewed:
    """Answer to ``PreviewPlan``: `planning.explain`'s data."""

    job: int
    explanation: dict[str, Any]


@dataclass(frozen=True)
class SegmentsBuilt:
    """Answer to ``BuildSegments``, one segment per stage."""

    job: int
    segments: tuple[BuiltSegment, ...]


@dataclass(frozen=True)
class StandbyPlanned:
    """Answer to ``PlanStandby``; ``failure`` says why there is none."""

    pipeline: str
    epoch: Epoch
    standby: tuple[Standby, ...]
    failure: str = ""


@dataclass(frozen=True)
class FleetDivided:
    """Answer to ``DivideFleet``: the nodes of each pipeline, and what all together are to give."""

    job: int
    groups: tuple[frozenset[str], ...]
    tokens_per_s: float


@dataclass(frozen=True)
class JobFailed:
    """``SolvePlan``, ``DivideFleet`` or ``BuildSegments`` ended with an error."""

    job: int
    reason: str


@dataclass(frozen=True)
class Interrupted:
    """Requests that were open when the orchestrator last ended: (client, request)."""

    requests: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True)
class Stopping:
    """The orchestrator is asked to end."""


Event = (
    BusUp
    | BusDown
    | NodeSaid
    | PlanHeard
    | TokensHeard
    | Submitted
    | Cancelled
    | Commanded
    | ModelOpened
    | ModelUnusable
    | PlanSolved
    | PlanPreviewed
    | SegmentsBuilt
    | StandbyPlanned
    | FleetDivided
    | JobFailed
    | Interrupted
    | Tick
    | Stopping
)

# --- effects ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Publish:
    """Send a message."""

    topic: str
    message: Any
    qos: int = 1
    retain: bool = False


def command(node: str, message: object) -> Publish:
    """A command to a node."""
    return Publish(NODE_COMMAND.format(node=node), message)


@dataclass(frozen=True)
class OpenModel:
    """Load a model's manifest and tokenizer."""

    name: str


@dataclass(frozen=True)
class SolvePlan:
    """Ask the planner."""

    job: int
    problem: Problem


@dataclass(frozen=True)
class PreviewPlan:
    """Ask the planner and let it explain; nothing comes of it. ``job`` is a number below 0. ``pipelines``: how many the
    fleet would be divided into; None: as many as give most."""

    job: int
    problem: Problem
    pipelines: int | None = 1


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
    """Hear the tokens of one pipeline more."""

    pipeline: str


@dataclass(frozen=True)
class BuildSegments:
    """Assemble the graph of each stage."""

    job: int
    model: str
    ring: tuple[StageRef, ...]


@dataclass(frozen=True)
class PlanStandby:
    """Ask the planner which units of its neighbours each node should keep on its disk, for a plan in force."""

    pipeline: str
    epoch: Epoch
    problem: Problem
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class SaveEpoch:
    """Remember that this epoch was used; done before anything of the epoch is published."""

    epoch: Epoch


@dataclass(frozen=True)
class SavePlan:
    """Add a committed plan to the history; ``details`` is JSON-able."""

    epoch: Epoch
    model: str
    details: dict[str, Any]


@dataclass(frozen=True)
class SaveNode:
    """Remember a node."""

    birth: NodeBirth


@dataclass(frozen=True)
class SaveProfile:
    """Remember what a node measured or was observed to do."""

    profile: Profile


@dataclass(frozen=True)
class SaveWishes:
    """Remember what plans are to respect."""

    wishes: dict[str, Any]


@dataclass(frozen=True)
class TellHistory:
    """Answer a command with the newest plans that were committed."""

    command: ControlRequest
    limit: int


@dataclass(frozen=True)
class SaveDrained:
    """Remember that an operator wants a node to be empty, or no longer."""

    node: str
    drained: bool


@dataclass(frozen=True)
class TellEvents:
    """Answer a command with the newest events."""

    command: ControlRequest
    limit: int


@dataclass(frozen=True)
class SaveModelChoice:
    """An operator chose this model: it is served after a restart too."""

    model: str


@dataclass(frozen=True)
class SaveRequest:
    """A request begins: whoever starts after a crash knows whom to tell."""

    client: str
    request: str


@dataclass(frozen=True)
class ForgetRequest:
    """A request ended."""

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
    | SolvePlan
    | PreviewPlan
    | BuildSegments
    | PlanStandby
    | DivideFleet
    | Listen
    | SaveEpoch
    | SavePlan
    | SaveNode
    | SaveProfile
    | SaveWishes
    | TellHistory
    | SaveDrained
    | TellEvents
    | SaveModelChoice
    | SaveRequest
    | ForgetRequest
    | Note
    | Halt
)
