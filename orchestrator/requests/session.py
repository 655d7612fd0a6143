"""The session of one request, from its submission to its end (pure)."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from orchestrator.deployment.plan import LONGER, DeployedPlan
from orchestrator.effects import CompileGrammar, EncodePrompt, Publish, command, respond
from orchestrator.events import GrammarCompiled, PromptEncoded, PromptUnusable, SavedRequest
from orchestrator.model.prompt import PromptRefused
from orchestrator.model.served import AnswerGrammar, ServedModel
from orchestrator.requests.answer import Answer, EncodedPrompt
from orchestrator.requests.answer_form import AnswerForm
from orchestrator.requests.answer_logprobs import AnswerLogprobs
from orchestrator.requests.answer_record import AnswerRecord, whole_answer
from orchestrator.requests.ending import Ending
from orchestrator.requests.placement import Placement
from orchestrator.requests.resend_timer import ResendTimer
from orchestrator.requests.step_failures import StepFailures, StepVerdict
from orchestrator.timing import Timing
from schemas.limits import MAX_LINE
from schemas.messages import (
    AllowTokens,
    ErrorCode,
    FinishReason,
    OpenRequest,
    RequestClosed,
    RequestFailed,
    ResendTokens,
    StreamEnd,
    StreamError,
    StreamStatus,
    SubmitRequest,
    ToolFormat,
)
from schemas.topics import REQUEST_STREAM


class Phase(enum.Enum):
    """The phase of a request's life."""

    QUEUED = "queued"
    OPEN = "open"
    CLOSING = "closing"
    """The answer is complete; the stages' figures are awaited."""


@dataclass
class Session:
    """A request as the orchestrator holds it, with its times."""

    submit: SubmitRequest
    submitted_s: float
    """The first time, perhaps to another orchestrator."""
    queued_s: float = 0.0
    phase: Phase = Phase.QUEUED
    asked_model: str = ""
    """Whose tokenizer was last asked for the prompt's ids."""
    asked_grammar: str = ""
    """The same for the form that the answer is bound to."""
    grammar: AnswerGrammar | None = None
    """That form, for that model; None until it is compiled, and where the answer may be anything."""
    prompt: EncodedPrompt | None = None
    answer: Answer | None = None
    """None until a pipeline has found that the prompt fits."""
    placement: Placement | None = None
    """The newest: of one that waits to go on, the ring that broke."""
    resend: ResendTimer = field(default_factory=ResendTimer)
    failures: StepFailures = field(default_factory=StepFailures)
    interrupted_s: float | None = None
    """When its ring broke; None unless it waits to go on."""
    ttft_s: float | None = None
    """From the submission to the first token; None until that has come."""
    ending: Ending | None = None
    """In the phase CLOSING."""
    reader_due_s: float = math.inf
    """When its reader counts as gone."""
    awaits_reader: bool = False
    """It is not opened before its reader is heard, nor told to have failed: another one may have answered it."""
    retry_s: float = -math.inf
    """It is not opened before this: a node had no room for it."""
    stalled_at: int | None = None
    """The position of the token that did not come, the last time it stalled."""
    missing_since_s: float | None = None
    """Since when there is neither a plan for it nor one on its way; None while there is."""
    waits_for: str = ""
    """What its reader was last told that it waits for; empty: that it is being computed, or nothing yet."""
    tell_due_s: float = math.inf
    """When its reader is to be told next."""
    begun_with: str | None = None
    """The model that made ``known_ids``; None where that was not said."""
    known_ids: tuple[int, ...] = ()
    """Tokens of the answer from before this orchestrator knew the request, until there is an ``answer``."""
    opened_in: str = ""
    """The epoch in which an earlier start of the orchestrator opened it; empty unless it was."""
    tool_format: ToolFormat | None = None
    """How its model writes tool calls, where tools were offered."""
    end_told: StreamEnd | StreamError | None = None
    """The end, once its reader was told."""
    request: str = field(init=False)
    client: str = field(init=False)
    stream_topic: str = field(init=False)
    """Where its client reads the answer; worked out once, as every token goes there."""

    def __post_init__(self) -> None:
        self.request, self.client = self.submit.request, self.submit.client
        self.begun_with = self.begun_with or self.submit.answer_model
        if len(self.submit.answer_ids) > len(self.known_ids):
            self.known_ids = self.submit.answer_ids
        self.stream_topic = REQUEST_STREAM.format(client=self.client, request=self.request)

    @classmethod
    def asked(cls, submit: SubmitRequest, timing: Timing, now_s: float) -> Session:
        """A request that has just come in."""
        session = cls(submit, submitted_s=now_s - submit.age_s, ttft_s=submit.ttft_s)
        session.wait(now_s, timing)
        session.renew(now_s)
        return session

    @classmethod
    def restored(cls, saved: SavedRequest, timing: Timing, now_s: float) -> Session:
        """A request of an earlier start of the orchestrator, which waits to go on."""
        session = cls(
            saved.submit,
            submitted_s=now_s - saved.age_s,
            asked_model=saved.model,
            prompt=EncodedPrompt(saved.model, saved.prompt_ids) if saved.model else None,
            begun_with=saved.model or None,
            known_ids=saved.tokens,
            opened_in=saved.epoch,
            ttft_s=saved.ttft_s,
        )
        session.interrupted_s = now_s if saved.epoch else None
        session.wait(now_s, timing)
        session.renew(now_s)
        session.reader_due_s = max(session.reader_due_s, now_s + timing.reader_return_s)
        session.awaits_reader = saved.submit.lease_s is not None
        return session

    def ask_prompt(self, model: ServedModel) -> list[EncodePrompt | CompileGrammar]:
        """Let the prompt be encoded for a model, and its form compiled, unless that is on its way."""
        effects: list[EncodePrompt | CompileGrammar] = []
        if self.submit.grammar and self.asked_grammar != model.name:
            self.asked_grammar, self.grammar = model.name, None
            effects.append(CompileGrammar(self.request, model.name, self.submit.grammar))
        if self.asked_model != model.name:
            self.asked_model = model.name
            effects.append(EncodePrompt(self.request, model.name, self.submit))
        return effects

    def awaits(self, event: PromptEncoded | GrammarCompiled | PromptUnusable) -> bool:
        """Is it what the worker was asked for last?"""
        return event.model == (self.asked_grammar if isinstance(event, GrammarCompiled) else self.asked_model)

    def take(self, event: PromptEncoded | GrammarCompiled) -> None:
        """Take in the encoded prompt, or the compiled form."""
        if isinstance(event, GrammarCompiled):
            self.grammar = event.grammar
        else:
            self.prompt = EncodedPrompt(event.model, event.ids)
        self.answer = None

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt; empty until it is encoded."""
        return self.prompt.ids if self.prompt else ()

    @property
    def in_prefill(self) -> bool:
        """Has the request a ring that has made no token for it yet?"""
        return bool(self.answer and self.placement and self.answer.next_position == self.placement.begun_at)

    def learn(self, again: SubmitRequest) -> None:
        """Take in tokens that the reader has and that are not known here, while no ring makes others."""
        if self.phase is Phase.QUEUED and len(again.answer_ids) > self.tokens_known:
            self.begun_with = self.answer.prompt.model if self.answer else self.begun_with
            self.answer, self.known_ids = None, again.answer_ids
            self.ttft_s = again.ttft_s if self.ttft_s is None else self.ttft_s

    @property
    def is_behind(self) -> bool:
        """Has the answer begun, and waits to go on? Then its reader may have more of it than is known here."""
        return self.phase is Phase.QUEUED and self.interrupted_s is not None

    def overdue(self) -> str:
        """What an open request waits for that has stood still for a while, in words."""
        if self.in_prefill and self.tokens_known:
            return "its next token: those before it are being computed anew"
        if self.in_prefill:
            return f"its first token: a prompt of {len(self.prompt_ids)} tokens is being computed"
        return "the next token, which is overdue"

    def fit(self, model: ServedModel, context_tokens: int, *, longer: str = LONGER) -> bool:
        """Bound the answer by the context of a model that is about to serve the request.

        ``longer``: what would make the context longer.

        Returns:
            Whether its prompt and its form are there for that model; if not, see `ask_prompt`.

        Raises:
            PromptRefused: too long, or begun with another model.
        """
        self.tool_format = model.tokenizer.tool_format if self.submit.tools else None
        begun_with = self.answer.prompt.model if self.answer else self.begun_with
        if self.tokens_known and begun_with not in (None, model.name):
            raise PromptRefused("bad_request", "the model was changed during the answer: ask again")
        if self.prompt is None or self.prompt.model != model.name:
            return False
        if self.submit.grammar and (self.grammar is None or self.asked_grammar != model.name):
            return False
        most_tokens = self.prompt.fit(context_tokens, self.submit.max_tokens, longer)
        if self.answer is None:
            known = list(self.known_ids[:most_tokens])
            if known and known[-1] in model.manifest.eos_ids:
                known.pop()  # made once more, it ends the answer
            form = None
            if self.grammar:
                form, known = AnswerForm.behind(self.grammar, known)
            alternatives = self.submit.logprobs
            self.answer = Answer(
                self.request, self.prompt, most_tokens, model.manifest.vocab_size, model.tokenizer.stream, known,
                self.submit.stop,
                None if alternatives is None else AnswerLogprobs(model.tokenizer.token_text, alternatives),
                form,
            )  # fmt: skip
        else:
            self.answer.max_tokens = most_tokens
        return True

    def fit_on(self, plan: DeployedPlan) -> bool:
        """Can the request go on in this plan, as it is?"""
        try:
            return self.fit(plan.model, plan.context_tokens)
        except PromptRefused:
            return False

    @property
    def tokens_known(self) -> int:
        """How many tokens of the answer are known."""
        return len(self.answer.tokens) if self.answer else len(self.known_ids)

    def open(self, placement: Placement) -> None:
        """Note that the stages of this ring are told of the request, and serve it from here on."""
        self.phase = Phase.OPEN
        self.placement = placement
        self.interrupted_s = self.missing_since_s = None
        self.waits_for = ""

    def open_messages(self, *, pipeline: str) -> list[tuple[str, OpenRequest]]:
        """The commands to open the request: (node, command) for every stage of its ring; see `Placement`."""
        assert self.answer
        assert self.placement
        return self.placement.open_messages(self.submit, self.answer, pipeline=pipeline)

    def form_messages(self) -> list[AllowTokens]:
        """All that the last stage has to know of what may come next, where the answer is bound to a form."""
        if self.answer is None or self.answer.form is None or self.placement is None:
            return []
        answer, epoch = self.answer, self.placement.epoch
        told = self.answer.form.tell(self.request, epoch, prompt_tokens=answer.prompt_tokens, tokens=answer.tokens)
        return [told] if told else []

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

    def interrupt(self, now_s: float, timing: Timing) -> None:
        """Let the request, whose ring is gone, wait to go on in another."""
        self.phase = Phase.QUEUED
        self.interrupted_s = now_s
        self.wait(now_s, timing)

    def end(self, finish: FinishReason, now_s: float, *, due_s: float) -> None:
        """Begin the end: the answer is complete, or nobody wants more of it."""
        self.phase = Phase.CLOSING
        self.ending = Ending(finish, now_s, due_s)

    def closed(self, closed: RequestClosed) -> bool:
        """Take in a stage's report about what it did for the request; was it the last one?"""
        stage = closed.timing.stage
        if self.ending is None or self.placement is None:
            return False
        ring, timings = self.placement.ring, self.ending.timings
        if stage >= len(ring) or closed.timing.node != ring[stage]:
            return False
        timings[stage] = closed.timing
        return len(timings) == len(ring)

    def next_deadline_s(self, timing: Timing, *, missing: bool) -> float:
        """When time alone changes something for the request; ``missing`` as in `gives_up_s`."""
        if self.ending:
            return self.ending.due_s
        if self.phase is Phase.OPEN:
            waits_s = min(self.stalls_s(timing), self.gives_up_s(timing, missing=missing))
            return min(self.resend.due_s, self.tell_due_s, waits_s)
        waits_s = min(self.gives_up_s(timing, missing=missing), self.tell_due_s)
        return waits_s if self.retry_s == -math.inf else min(waits_s, self.retry_s)

    def stalls_s(self, timing: Timing) -> float:
        """When nothing will come of the open request any more, though no node says so: a long prompt takes long."""
        assert self.answer
        prefill_s = min(timing.prefill_most_s, timing.prefill_token_s * self.answer.next_position)
        return self.resend.progress_s + timing.stall_s + prefill_s

    def stalls_again(self) -> bool:
        """Note that nothing comes of the open request; did it stall at this token before?"""
        assert self.answer
        before, self.stalled_at = self.stalled_at, self.answer.next_position
        return before == self.stalled_at

    def gives_up_s(self, timing: Timing, *, missing: bool) -> float:
        """When a waiting request ends for want of patience.

        ``missing``: there is no plan, and none on its way. Else it waits for its turn, which nobody is to blame for.
        """
        turn_s = math.inf
        if self.phase is Phase.QUEUED:
            turn_s = min(self.expires_at_s, self.queued_s + max(self.submit.patience_s, timing.queue_s))
        if not missing:
            return turn_s
        since_s = -math.inf if self.missing_since_s is None else self.missing_since_s
        return min(since_s + self.submit.patience_s, turn_s)

    @property
    def expires_at_s(self) -> float:
        """When an answer that has not begun is not wanted any more."""
        if self.submit.expires_s is None or self.tokens_known:
            return math.inf
        return self.submitted_s + self.submit.expires_s

    def renew(self, now_s: float) -> None:
        """Note that the request's reader is there."""
        self.awaits_reader = False
        self.reader_due_s = now_s + (self.submit.lease_s or math.inf)

    def wait(self, now_s: float, timing: Timing) -> None:
        """Begin to wait in the queue."""
        self.queued_s, self.tell_due_s = now_s, now_s + timing.tell_s

    def tell_waiting(self, waits_for: str, now_s: float, timing: Timing) -> list[Publish]:
        """Tell the one who asked what the answer waits for, if that is news and he was not told a moment ago."""
        if waits_for == self.waits_for:
            self.tell_due_s = math.inf
            return []
        if now_s < self.tell_due_s < math.inf:
            return []
        self.waits_for, self.tell_due_s = waits_for, now_s + timing.tell_s
        return [self.status()]

    def status(self) -> Publish:
        """The message about what the answer waits for."""
        model = self.prompt.model if self.prompt else None
        waits_for, form = self.waits_for[:MAX_LINE], self.tool_format
        status = StreamStatus(request=self.request, waits_for=waits_for, model=model, tool_format=form)
        return Publish(self.stream_topic, status)

    def tell_end(self, end: StreamEnd | StreamError) -> list[Publish]:
        """Tell the one who asked that there is nothing more to come, and the whole answer if that is wanted."""
        self.end_told = end
        record = AnswerRecord.of(self.answer) if self.answer and self.submit.response else None
        whole = whole_answer(record, end) if self.submit.response else end
        return [Publish(self.stream_topic, end), *respond(self.submit.response, whole)]

    def tell_error(self, code: ErrorCode, reason: str) -> list[Publish]:
        """Tell the one who asked that there will be no (more) answer."""
        return self.tell_end(StreamError(request=self.request, code=code, reason=reason[:MAX_LINE]))

    def told_after(self, tokens: int) -> list[Publish]:
        """Once more what the one who asked was told behind the first ``tokens`` tokens, and how the answer is."""
        pieces = self.answer.text_after(tokens) if self.answer else []
        return [self.status(), *(Publish(self.stream_topic, piece) for piece in pieces)]

    def end_message(self) -> StreamEnd:
        """The message that ends the answer."""
        ending = self.ending
        assert ending
        total_s = max(0.0, ending.ended_s - self.submitted_s)
        timings = tuple(ending.timings[stage] for stage in sorted(ending.timings))
        return StreamEnd(
            request=self.request,
            finish_reason=ending.finish,
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.answer.tokens) if self.answer else 0,
            ttft_s=total_s if self.ttft_s is None else min(self.ttft_s, total_s),
            total_s=total_s,
            stages=timings if self.submit.stats else (),
            text_tokens=self.answer.text.tokens if self.answer else 0,
            text_characters=self.answer.text.characters if self.answer else 0,
        )
