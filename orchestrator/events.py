"""Events: what happens to the core."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.effects import Asker
from orchestrator.model.served import AnswerGrammar, BuiltSegment, ServedModel
from orchestrator.planning.solution import Infeasible, Solution, Standby
from schemas.codec import Frame, request_id
from schemas.errors import MessageError
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import (
    CancelRequest,
    Epoch,
    NoPlanExplanation,
    OperatorRequest,
    Plan,
    PlanExplanation,
    RenewRequest,
    ResponseTo,
    SubmitRequest,
)


@dataclass(frozen=True)
class BusUp:
    """Subscriptions are in force, for the first time or again, and nobody else serves."""

    reconnect: bool
    max_message_bytes: int = MAX_PAYLOAD_BYTES
    """What the broker takes of this orchestrator, as far as it says."""
    stood_still: bool = False
    """It was this process that was away, not the broker."""


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
class NodeRevoked:
    """A node's membership has ended: the broker lets it in no more."""

    node: str


@dataclass(frozen=True)
class NodeForgotten:
    """That a node's membership has ended was shown long enough."""

    node: str


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
    logprobs: Sequence[bytes] = ()
    """How likely its tokens were, packed; empty where that was not said."""
    request: str = field(init=False)
    ids: tuple[int, ...] = field(init=False)
    """The frame's tokens."""

    @property
    def guess(self) -> tuple[int, ...]:
        """What the last stage guesses to follow."""
        return struct.unpack_from(f"<{self.frame.width}i", self.frame.payload, 4 * self.frame.count)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", request_id(self.frame.request))
        object.__setattr__(self, "ids", struct.unpack_from(f"<{self.frame.count}i", self.frame.payload))


@dataclass(frozen=True)
class Submitted:
    """A client asks."""

    request: SubmitRequest


@dataclass(frozen=True)
class PromptEncoded:
    """Answer to ``EncodePrompt``."""

    request: str
    model: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class GrammarCompiled:
    """Answer to ``CompileGrammar``."""

    request: str
    model: str
    grammar: AnswerGrammar


@dataclass(frozen=True)
class PromptUnusable:
    """Answer to ``EncodePrompt`` and ``CompileGrammar``: there is no prompt, or no form.

    ``summary`` is the reason without anybody's text in it.
    """

    request: str
    model: str
    code: Literal["too_long", "bad_request", "failed"]
    reason: str
    summary: str


@dataclass(frozen=True)
class Cancelled:
    """A client lost interest."""

    client: str
    cancel: CancelRequest


@dataclass(frozen=True)
class Renewed:
    """A client still reads an answer."""

    client: str
    renew: RenewRequest


@dataclass(frozen=True)
class ClientGone:
    """A client's connection was lost, as its will says."""

    client: str
    connection: str | None = None
    """Which one, of a client that has several."""


@dataclass(frozen=True)
class Malformed:
    """A client's message about a request breaks the contract. ``request`` is None where it can't be told."""

    client: str
    request: str | None
    reason: str
    response: ResponseTo | None = None
    """Where else the answer is wanted."""


@dataclass(frozen=True)
class Commanded:
    """An operator commands."""

    asker: Asker
    command: OperatorRequest


@dataclass(frozen=True)
class CommandUnreadable:
    """An operator commands what the contract does not have."""

    asker: Asker
    error: MessageError


@dataclass(frozen=True)
class ModelAdded:
    """A model has become the active one of this machine, where none was."""

    name: str


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
    explanation: PlanExplanation | NoPlanExplanation


@dataclass(frozen=True)
class PlanChecked:
    """Answer to ``CheckPlan``."""

    job: int
    outcome: Solution | Infeasible


@dataclass(frozen=True)
class SegmentsBuilt:
    """Answer to ``BuildSegments``, one segment per stage."""

    job: int
    segments: tuple[BuiltSegment, ...]


@dataclass(frozen=True)
class PlanEvaluated:
    """Answer to ``EvaluatePlan``."""

    job: int
    solution: Solution


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
class SavedRequest:
    """What was kept of a request that had not ended. ``epoch``: of the plan it was opened in last; empty: in none;
    0-0: somebody else has served since.

    The prompt is what it was opened with: encoded once more it could be another, since templates may have the date.
    """

    submit: SubmitRequest
    age_s: float
    model: str = ""
    prompt_ids: tuple[int, ...] = ()
    epoch: str = ""
    tokens: tuple[int, ...] = ()
    """Of the answer."""
    ttft_s: float | None = None
    """From the submission to the first of them."""


@dataclass(frozen=True)
class Restored:
    """Requests that had not ended when the orchestrator last ended, and the plans that were in force."""

    requests: tuple[SavedRequest, ...]
    plans: tuple[Plan, ...] = ()


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
    | NodeRevoked
    | NodeForgotten
    | ModelAdded
    | PlanHeard
    | TokensHeard
    | Submitted
    | PromptEncoded
    | GrammarCompiled
    | PromptUnusable
    | Cancelled
    | Renewed
    | ClientGone
    | Malformed
    | Commanded
    | CommandUnreadable
    | ModelOpened
    | ModelUnusable
    | PlanSolved
    | PlanPreviewed
    | PlanChecked
    | SegmentsBuilt
    | StandbyPlanned
    | PlanEvaluated
    | FleetDivided
    | JobFailed
    | Restored
    | Tick
    | Stopping
)
