"""The session of one request, from its submission to its end (pure)."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.deployment.plan import LONGER
from orchestrator.effects import EncodePrompt, Publish, command
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import ServedModel
from orchestrator.requests.answer import Answer, EncodedPrompt, FinishReason
from orchestrator.requests.placement import Placement
from orchestrator.requests.resend_timer import ResendTimer
from orchestrator.requests.step_failures import StepFailures, StepVerdict
from orchestrator.timing import Timing
from schemas.limits import MAX_LINE
from schemas.messages import (
    OpenRequest,
    RequestFailed,
    ResendTokens,
    StageTiming,
    StreamEnd,
    StreamError,
    SubmitRequest,
)
from schemas.topics import REQUEST_STREAM

ErrorCode = Literal["no_model", "no_nodes", "no_memory", "not_ready", "too_long", "busy", "bad_request", "failed"]


class Phase(enum.Enum):
    """The phase of a request's life."""

    QUEUED = "queued"
    OPEN = "open"
    CLOSING = "closing"
    """The answer is complete; the stages' figures are awaited."""


@dataclass
class Ending:
    """How a request has ended, and what its stages report of it."""

    finish: FinishReason
    ended_s: float
    due_s: float
    """The stages' figures are awaited until then."""
    timings: dict[int, StageTiming] = field(default_factory=dict)
    """By stage."""


@dataclass
class Session:
    """A request as the orchestrator holds it, with its times."""

    submit: SubmitRequest
    submitted_s: float
    queued_s: float = 0.0
    phase: Phase = Phase.QUEUED
    asked_model: str = ""
    """Whose tokenizer was last asked for the prompt's ids."""
    prompt: EncodedPrompt | None = None
    answer: Answer | None = None
    """None until a pipeline has found that the prompt fits."""
    placement: Placement | None = None
    """The newest: of one that waits to go on, the ring that broke."""
    resend: ResendTimer = field(default_factory=ResendTimer)
    failures: StepFailures = field(default_factory=StepFailures)
    interrupted_s: float | None = None
    """When its ring broke; None unless it waits to go on."""
    first_token_s: float | None = None
    ending: Ending | None = None
    """In the phase CLOSING."""
    reader_due_s: float = math.inf
    """When its reader counts as gone."""
    sent: list[object] = field(default_factory=list)
    """All that its reader was told, in order: pieces by their sequence, then the end."""
    request: str = field(init=False)
    client: str = field(init=False)
    stream_topic: str = field(init=False)
    """Where its client reads the answer; worked out once, as every token goes there."""

    def __post_init__(self) -> None:
        self.request, self.client = self.submit.request, self.submit.client
        self.stream_topic = REQUEST_STREAM.format(client=self.client, request=self.request)

    def ask_prompt(self, model: ServedModel) -> list[EncodePrompt]:
        """Let the prompt be encoded for a model, unless that is on its way."""
        if self.asked_model == model.name:
            return []
        self.asked_model = model.name
        return [EncodePrompt(self.request, model.name, self.submit)]

    def take_prompt(self, prompt: EncodedPrompt) -> None:
        """Take in the encoded prompt."""
        self.prompt, self.answer = prompt, None

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt; empty until it is encoded."""
        return self.prompt.ids if self.prompt else ()

    @property
    def in_prefill(self) -> bool:
        """Has the request a ring that has made no token for it yet?"""
        return bool(self.answer and self.placement and self.answer.next_position == self.placement.begun_at)

    def fit(self, model: ServedModel, context_tokens: int, *, longer: str = LONGER) -> bool:
        """Bound the answer by the context of a model that is about to serve the request.

        ``longer``: what would make the context longer.

        ``longer``: what would make the context so.

        Returns:
            Whether its prompt is encoded for that model; if not, see `ask_prompt`.

        Raises:
            PromptRefused: too long, or begun with another model.
        """
        if self.prompt is None or self.prompt.model != model.name:
            if self.answer and self.answer.tokens:
                raise PromptRefused("bad_request", "the model was changed during the answer: ask again")
            return False
        most_tokens = self.prompt.fit(context_tokens, self.submit.max_tokens, longer)
        if self.answer is None:
            self.answer = Answer(self.request, self.prompt, most_tokens, model.tokenizer.stream())
        else:
            self.answer.max_tokens = most_tokens
        return True

    def open(self, placement: Placement) -> None:
        """Note that the stages of this ring are told of the request, and serve it from here on."""
        self.phase = Phase.OPEN
        self.placement = placement
        self.interrupted_s = None

    def open_messages(self, *, pipeline: str) -> list[tuple[str, OpenRequest]]:
        """The commands to open the request: (node, command) for every stage of its ring; see `Placement`."""
        assert self.answer
        assert self.placement
        return self.placement.open_messages(self.submit, self.answer, pipeline=pipeline)

    def step_failed(self, failure: RequestFailed) -> StepVerdict:
        """Note that a node can't compute the next token."""
        assert self.answer
        return self.failures.add(failure, self.answer.next_position)

    def ask_first_stage(self) -> list[Publish]:
        """The command to repeat what the ring owes, to the first of several stages."""
        if self.placement is None or self.answer is None or len(self.placement.ring) == 1:
            return []
        ask = ResendTokens(request=self.request, position=self.answer.next_position, first_stage=True)
        return [command(self.placement.ring[0], ask)]

    def interrupt(self, now_s: float) -> None:
        """Let the request, whose ring is gone, wait to go on in another."""
        self.phase = Phase.QUEUED
        self.interrupted_s = self.queued_s = now_s

    def end(self, finish: FinishReason, now_s: float, *, due_s: float) -> None:
        """Begin the end: the answer is complete, or nobody wants more of it."""
        self.phase = Phase.CLOSING
        self.ending = Ending(finish, now_s, due_s)

    def next_deadline_s(self, timing: Timing, *, refusing: bool) -> float:
        """When time alone changes something for the request; ``refusing``: what waits is being refused."""
        if self.ending:
            return self.ending.due_s
        if self.phase is Phase.OPEN:
            return min(self.resend.due_s, self.resend.progress_s + timing.stall_s)
        recovery_s = timing.recovery_s if refusing and self.interrupted_s is not None else math.inf
        return min(self.queued_s + timing.queue_s, (self.interrupted_s or 0.0) + recovery_s)

    def renew(self, now_s: float) -> None:
        """Note that the request's reader is there."""
        self.reader_due_s = now_s + (self.submit.lease_s or math.inf)

    def tell(self, message: object) -> Publish:
        """A message to the one who asked."""
        self.sent.append(message)
        return Publish(self.stream_topic, message)

    def tell_error(self, code: ErrorCode, reason: str) -> Publish:
        """Tell the one who asked that there will be no (more) answer."""
        return self.tell(StreamError(request=self.request, code=code, reason=reason[:MAX_LINE]))

    def end_message(self) -> StreamEnd:
        """The message that ends the answer."""
        ending = self.ending
        assert ending
        first_s = self.first_token_s if self.first_token_s is not None else ending.ended_s
        timings = tuple(ending.timings[stage] for stage in sorted(ending.timings))
        return StreamEnd(
            request=self.request,
            finish_reason=ending.finish,
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.answer.tokens) if self.answer else 0,
            ttft_s=max(0.0, first_s - self.submitted_s),
            total_s=max(0.0, ending.ended_s - self.submitted_s),
            stages=timings if self.submit.stats else (),
            pieces=len(self.sent),
        )
