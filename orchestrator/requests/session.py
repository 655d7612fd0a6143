"""One request: its prompt, the tokens that came back, and the text they make (pure).

Token i of the answer has position ``prompt_tokens + i``. Tokens are taken strictly in that order: what was seen is
dropped, what comes too early shows that something is missing.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import EncodePrompt, Publish
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import ServedModel
from orchestrator.requests.answer import Answer, FinishReason
from orchestrator.timing import Timing
from schemas.messages import Epoch, OpenRequest, StageTiming, StreamEnd, StreamError, SubmitRequest
from schemas.topics import REQUEST_STREAM

ErrorCode = Literal["no_model", "no_nodes", "no_memory", "not_ready", "too_long", "busy", "bad_request", "failed"]


class Phase(enum.Enum):
    """Where a request is in its life."""

    QUEUED = "queued"
    OPEN = "open"
    CLOSING = "closing"
    """The answer is complete; the stages' figures are awaited."""


@dataclass
class Session:
    """A request with its times. ``answer`` and ``prompt_ids`` are those of ``model``'s tokenizer."""

    submit: SubmitRequest
    submitted_s: float
    phase: Phase = Phase.QUEUED
    model: str = ""
    asked_model: str = ""
    """Whose tokenizer was last asked for the prompt's ids."""
    prompt_ids: tuple[int, ...] = ()
    answer: Answer | None = None
    epoch: Epoch | None = None
    ring: tuple[str, ...] = ()
    """Nodes of the stages that serve it, in order."""
    begun_at: int = 0
    """Position of the first token that this ring makes."""
    eos_ids: tuple[int, ...] = ()
    draft_tokens: int = 0
    """Most tokens the last stage guesses per round trip."""
    prefix: tuple[str, int] | None = None
    """The ended request whose KV rows this one goes on from, and how many."""
    moved_tokens: int = 0
    """Positions whose KV rows came along from the ring before."""
    queued_s: float = 0.0
    interrupted_s: float | None = None
    """When its ring broke; None unless it waits to go on."""
    first_token_s: float | None = None
    progress_s: float = 0.0
    asked_s: float = -math.inf
    """When missed tokens were last asked for."""
    resend_due_s: float = 0.0
    resend_wait_s: float = 0.0
    ended_s: float = 0.0
    close_due_s: float = 0.0
    finish: FinishReason | None = None
    timings: dict[int, StageTiming] = field(default_factory=dict)
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

    def take_prompt(self, model: str, ids: tuple[int, ...]) -> None:
        """The prompt is encoded."""
        self.model, self.prompt_ids, self.answer = model, ids, None

    def fit(self, model: ServedModel, context_tokens: int) -> bool:
        """Bound the answer by the context of a model that is about to serve the request.

        Returns:
            Whether its prompt is encoded for that model; if not, see `ask_prompt`.

        Raises:
            PromptRefused: too long, or begun with another model.
        """
        if self.model != model.name:
            if self.answer and self.answer.tokens:
                raise PromptRefused("bad_request", "the model was changed during the answer: ask again")
            return False
        length = len(self.prompt_ids)
        if length >= context_tokens:
            raise PromptRefused(
                "too_long",
                f"the prompt has {length} tokens, the context is {context_tokens}: shorten it, or start the"
                f" orchestrator with a larger --context",
            )
        max_tokens = min(self.submit.max_tokens, context_tokens - length)
        if self.answer is None:
            self.answer = Answer(self.request, length, max_tokens, model.tokenizer.stream())
        else:
            self.answer.max_tokens = max_tokens
        return True

    def begin(self, plan: DeployedPlan, moved_tokens: int = 0) -> None:
        """Let a plan's stages serve it from here on; they have the KV rows of its first ``moved_tokens`` positions."""
        assert self.answer
        self.phase = Phase.OPEN
        self.epoch, self.ring, self.eos_ids = plan.epoch, plan.nodes, plan.model.manifest.eos_ids
        self.interrupted_s = None
        self.moved_tokens = moved_tokens
        self.begun_at = self.answer.next_position

    def open_messages(self, *, pipeline: str) -> list[tuple[str, OpenRequest]]:
        """(node, command) for every stage: from the last to the second, then stage 0, which begins at once."""
        assert self.answer
        assert self.epoch
        penalty = self.submit.sampling.repetition_penalty != 1.0
        known = (*self.prompt_ids, *self.answer.tokens)
        last = len(self.ring) - 1
        commands = []
        for stage in range(last, -1, -1):
            wants_ids = stage == 0 or (stage == last and (penalty or self.draft_tokens > 0))
            commands.append((
                self.ring[stage],
                OpenRequest(
                    pipeline=pipeline,
                    epoch=self.epoch,
                    stage=stage,
                    request=self.request,
                    prompt_tokens=self.answer.prompt_tokens,
                    max_tokens=self.answer.max_tokens,
                    prompt_ids=known if wants_ids else None,
                    sampling=self.submit.sampling if stage == last else None,
                    eos_ids=self.eos_ids if stage == last else (),
                    draft_tokens=self.draft_tokens if stage == last else 0,
                    prefix_request=self.prefix[0] if self.prefix else None,
                    prefix_tokens=self.prefix[1] if self.prefix else 0,
                    moved_tokens=self.moved_tokens,
                ),
            ))  # fmt: skip
        return commands

    def next_deadline_s(self, timing: Timing, *, refusing: bool) -> float:
        """When time alone changes something for it; ``refusing``: what waits is being refused."""
        if self.phase is Phase.CLOSING:
            return self.close_due_s
        if self.phase is Phase.OPEN:
            return min(self.resend_due_s, self.progress_s + timing.stall_s)
        recovery_s = timing.recovery_s if refusing and self.interrupted_s is not None else math.inf
        return min(self.queued_s + timing.queue_s, (self.interrupted_s or 0.0) + recovery_s)

    def tell(self, message: object) -> Publish:
        """A message to the one who asked."""
        return Publish(self.stream_topic, message)

    def tell_error(self, code: ErrorCode, reason: str) -> Publish:
        """There will be no (more) answer."""
        return self.tell(StreamError(request=self.request, code=code, reason=reason[:1000]))

    def end_message(self) -> StreamEnd:
        """The answer's end."""
        assert self.finish
        first_s = self.first_token_s if self.first_token_s is not None else self.ended_s
        timings = tuple(self.timings[stage] for stage in sorted(self.timings))
        return StreamEnd(
            request=self.request,
            finish_reason=self.finish,
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.answer.tokens) if self.answer else 0,
            ttft_s=max(0.0, first_s - self.submitted_s),
            total_s=max(0.0, self.ended_s - self.submitted_s),
            stages=timings if self.submit.stats else (),
        )
