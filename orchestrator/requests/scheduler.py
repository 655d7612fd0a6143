"""All requests of a pipeline: admission, opening, tokens, closing, time-outs (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.deployment.open_requests import OpenWork
from orchestrator.deployment.plan import ReadyPlan
from orchestrator.effects import Effect, ForgetRequest, Note, Publish, SaveRequest, SaveTokens, command
from orchestrator.events import GrammarCompiled, PromptEncoded, PromptUnusable, SavedRequest, TokensHeard
from orchestrator.model.prompt import PromptRefused
from orchestrator.requests.ending import ended_text, unheard_text
from orchestrator.requests.form_desk import FormDesk
from orchestrator.requests.opening import ask_again, open_on
from orchestrator.requests.patience import WaitsFor, end_of, is_at_end
from orchestrator.requests.pending_closes import PendingCloses
from orchestrator.requests.prefix_index import PrefixIndex
from orchestrator.requests.retry_after import RetryAfter
from orchestrator.requests.session import Phase, Session
from orchestrator.requests.session_table import SessionTable
from orchestrator.requests.waiting_queue import WaitingQueue
from orchestrator.timing import DEFAULT_DRAFT_TOKENS, Timing
from schemas.messages import CancelRequest, Epoch, ErrorCode, FinishReason, KeepRequests, RequestClosed, SubmitRequest

_REMEMBERED_PREFIXES = 64


class RequestScheduler:
    """Takes a pipeline's requests from submission to end; its sessions are by request id, in order of submission."""

    def __init__(
        self,
        *,
        pipeline: str,
        max_queued: int,
        timing: Timing,
        draft_tokens: int = DEFAULT_DRAFT_TOKENS,
        service: str | None = None,
    ) -> None:
        """``draft_tokens``: most tokens to guess in one run of a stage.
        ``service``: the name that clients ask, where it is not the pipeline's."""
        self._pipeline = pipeline
        self._service = service or pipeline
        self._draft_tokens = draft_tokens
        self._prefixes = PrefixIndex(_REMEMBERED_PREFIXES)
        self._timing = timing
        self.sessions = SessionTable()
        self._queue = WaitingQueue(max_queued)
        self.closings = PendingCloses()
        self._pace = RetryAfter()
        self.forms = FormDesk()
        self._next_nodes: tuple[str, ...] = ()
        """Of the ring that open requests are being moved to: they are told of ends too, for they may hold KV rows."""
        self.tokens_taken = self.tokens_dropped = 0
        self.changed = False
        """Tokens have come that others than the reader may have waited for; whoever looks sets it back."""

    # --- figures ----------------------------------------------------------------------------------------------

    @property
    def open_count(self) -> int:
        return self.sessions.open_count

    @property
    def open_work(self) -> OpenWork:
        """What the open requests hold, and what they may still want."""
        return self.sessions.open_work

    @property
    def in_prefill(self) -> bool:
        """Does an open request wait for the first token of its ring?"""
        return self.sessions.in_prefill

    @property
    def queued_count(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Does nobody wait for an answer?"""
        return not self._queue and not self.open_count

    # --- clients ----------------------------------------------------------------------------------------------

    def submit(self, request: SubmitRequest, now_s: float, *, free_slots: int = 0) -> list[Effect]:
        """Take in a client's request; ``free_slots``: of the plan in force."""
        if (known := self.sessions.get(request.request)) and known.client == request.client:
            known.learn(request)
        if self.sessions.was_submitted(request.request):
            return [*self.sessions.ended.respond(request)]  # the same submission again
        session = Session.asked(request, self._timing, now_s)
        if request.pipeline != self._service:
            reason = f"there is no pipeline {request.pipeline}: this orchestrator serves {self._service}"
            return [*session.tell_error("bad_request", reason)]
        if refusal := self._queue.refusal(request, free_slots):
            return [*session.tell_error("busy", f"{refusal}: {self._pace.advice()}")]
        self.adopt(session)
        return [SaveRequest(request)]

    def cancel(self, client: str, cancel: CancelRequest, now_s: float) -> list[Effect]:
        """End a request that its client has lost interest in."""
        session = self.sessions.get(cancel.request)
        if session is None or session.client != client or session.phase is Phase.CLOSING:
            return []
        return self._finish(session, "cancelled", now_s)

    # --- other pipelines ------------------------------------------------------------------------------------

    def knows(self, request: str) -> bool:
        """Was this request submitted here, now or lately?"""
        return self.sessions.was_submitted(request)

    @property
    def waiting(self) -> tuple[Session, ...]:
        """Sessions that wait for their turn, the next one first."""
        return tuple(self._queue)

    def give(self, request: str) -> Session:
        """Hand over a request that waits; it is forgotten here."""
        session = self.sessions.take(request)
        self._queue.leave(session)
        return session

    def adopt(self, session: Session) -> None:
        """Let a request of another pipeline wait here."""
        self.sessions.add(session)
        self._queue.add(session)

    def cached_tokens(self, session: Session, epoch: Epoch) -> int:
        """Tokens at the beginning of a prompt that an earlier request has left on the nodes."""
        found = self._prefixes.find(epoch, session.prompt_ids)
        return found[1] if found else 0

    # --- nodes ------------------------------------------------------------------------------------------------

    def tokens(self, heard: TokensHeard, now_s: float) -> list[Effect]:
        """Tokens of the last stage."""
        frame = heard.frame
        session = self.sessions.get(heard.request)
        if (
            session is None
            or session.phase is not Phase.OPEN
            or session.answer is None
            or session.placement is None
            or heard.pipeline != self._pipeline
            or frame.epoch != session.placement.epoch
            or heard.sender != session.placement.ring[-1]
            or not session.answer.knows(heard.ids)
        ):
            self.tokens_dropped += frame.count
            return []
        before = len(session.answer.tokens)
        pieces, gap = session.answer.take(frame.position, heard.ids, frame.flags, heard.logprobs)
        if gap or session.answer.finish or self._next_nodes or frame.position == session.placement.begun_at:
            self.changed = True
        if gap:
            session.resend.found_gap()
            return ask_again(session, self._pipeline, now_s) if session.resend.due_s <= now_s else []
        self.tokens_taken += len(session.answer.tokens) - before
        effects: list[Effect] = []
        if session.answer.form:
            effects += self.forms.go_on(session, heard)
            if failure := session.answer.form.failure:
                return self.abandon(session, "failed", failure, now_s)
        if len(session.answer.tokens) > before:
            self._progressed(session, now_s)
            if session.ttft_s is None:
                session.ttft_s = now_s - session.submitted_s
            effects.append(SaveTokens(session.request, before, tuple(session.answer.tokens[before:]), session.ttft_s))
        effects += [Publish(session.stream_topic, piece) for piece in pieces]
        if session.answer.finish:
            effects += self._finish(session, session.answer.finish, now_s)
        return effects

    def put_back(self, session: Session, now_s: float) -> list[Effect]:
        """Let an open request wait for which a node has no room: what is counted free here will soon be."""
        effects = self._close_stages(session, now_s)
        session.interrupt(now_s, self._timing)
        session.retry_s = now_s + self._timing.retry_s
        self._queue.put_first(session)
        return effects

    def closed(self, closed: RequestClosed) -> list[Effect]:
        """Take in a stage's report about what it did for a request."""
        self.closings.confirm(closed)
        session = self.sessions.get(closed.request)
        return self._end(session) if session and session.closed(closed) else []

    def node_returned(self, node: str) -> list[Effect]:
        """Tell a node that is back what it missed."""
        return self.closings.again(node)

    # --- the pipeline -----------------------------------------------------------------------------------------

    def admit(self, active: ReadyPlan, now_s: float) -> list[Effect]:
        """Open queued requests while there are slots."""
        effects: list[Effect] = []
        free = active.plan.slots - self.open_count
        model = active.plan.model
        for session in self._queue:
            if session.awaits_reader or now_s < session.retry_s or (free <= 0 and session.asked_model == model.name):
                continue
            try:
                is_encoded = session.fit(model, active.plan.context_tokens, longer=active.plan.longer)
            except PromptRefused as refused:
                effects += self._fail(session, refused.code, refused.reason)
                continue
            if not is_encoded:
                effects += session.ask_prompt(model)
            elif session.answer and session.answer.remaining_tokens <= 0:
                effects += [Publish(session.stream_topic, piece) for piece in session.answer.cut()]
                effects += self._finish(session, "length", now_s)  # the new plan has a smaller context
            elif free > 0:
                free -= 1
                self._queue.leave(session)
                effects += self._open(session, active, now_s)
        return effects

    def prompt_made(self, event: PromptEncoded | GrammarCompiled | PromptUnusable) -> list[Effect]:
        """Take in the prompt or the form that the worker has ready for a waiting request, or that there is none."""
        session = self.sessions.get(event.request)
        if session is None or session.phase is not Phase.QUEUED or not session.awaits(event):
            return []
        if isinstance(event, PromptUnusable):
            return self._fail(session, event.code, event.reason, event.summary)
        session.take(event)
        return []

    def move(self, active: ReadyPlan, held: Mapping[str, int], now_s: float) -> list[Effect]:
        """Open requests go on in the next ring.

        Stage 0 may know tokens that have not been heard here: the next ring makes the same ones again, which takes no
        longer than asking for them.

        Args:
            active: the plan that is about to be in force.
            held: positions whose KV rows are in its ring, by request; the first is opened first.
            now_s: the clock.
        """
        effects: list[Effect] = []
        for session in self.sessions.open_in_order(held):
            assert session.answer
            # The newest token's row is computed in the new ring: that makes the next token.
            moved_tokens = min(held.get(session.request, 0), session.answer.next_position - 1)
            effects += self._open(session, active, now_s, moved_tokens)
        return effects

    def _open(self, session: Session, active: ReadyPlan, now_s: float, moved_tokens: int = 0) -> list[Effect]:
        plan = active.plan
        self.closings.reopened(session.request)
        prefix = self._prefixes.find(plan.epoch, session.prompt_ids)
        effects = open_on(session, plan, draft_tokens=self._draft_tokens, prefix=prefix, moved_tokens=moved_tokens)
        self._progressed(session, now_s)
        return [*effects, *self.forms.opened(session)]

    def restore(self, saved: Sequence[SavedRequest], now_s: float) -> None:
        """Take in the requests of an earlier start."""
        for one in saved:
            self.adopt(Session.restored(one, self._timing, now_s))

    def go_on(self, active: ReadyPlan, now_s: float) -> list[Effect]:
        """Go on with the requests that an earlier start has opened in a plan that is adopted; the nodes end others."""
        plan = active.plan
        mine = [session for session in self._queue if session.opened_in == str(plan.epoch) and session.fit_on(plan)]
        keep = KeepRequests(pipeline=plan.pipeline, epoch=plan.epoch, requests=tuple(one.request for one in mine))
        effects: list[Effect] = [command(node, keep) for node in dict.fromkeys(plan.nodes)]
        for session in mine:
            self._queue.leave(session)
            effects += self._open(session, active, now_s)
            effects += ask_again(session, self._pipeline, now_s)
        return effects

    def prepare_move(self, nodes: tuple[str, ...]) -> None:
        """Open requests are being moved to these nodes, or to none any more."""
        self._next_nodes = nodes

    def ring_broken(self, now_s: float) -> list[Effect]:
        """Interrupt open requests, whose ring is gone: they wait, before all others, to go on in the next one."""
        effects: list[Effect] = []
        broken = list(self.sessions.in_phase(Phase.OPEN))
        for session in reversed(broken):
            session.interrupt(now_s, self._timing)
            self._queue.put_first(session)
            assert session.answer
            text = f"{session.request} interrupted after {len(session.answer.tokens)} tokens"
            effects.append(Note(text, warning=True))
        for session in self.sessions.in_phase(Phase.CLOSING):
            effects += self._end(session)
        return effects

    def ring_returned(self, now_s: float) -> list[Effect]:
        """Have stage 0 repeat at once what got lost, and the last stage what was missed: nodes are back."""
        sessions = self.sessions.in_phase(Phase.OPEN)
        return [*self.missed_messages(now_s), *(ask for session in sessions for ask in session.ask_first_stage())]

    def missed_messages(self, now_s: float) -> list[Effect]:
        """Ask for what open requests may have missed, after a while without a connection."""
        sessions = self.sessions.in_phase(Phase.OPEN)
        return [effect for session in sessions for effect in ask_again(session, self._pipeline, now_s)]

    def wait(self, waits_for: WaitsFor, now_s: float) -> list[Effect]:
        """Tell the readers of what waits for a ring, or for nodes of its ring, for what; end what has waited enough."""
        effects: list[Effect] = []
        for session in self.sessions:
            if session.phase is Phase.CLOSING:
                continue
            if is_at_end(session, waits_for, self._timing, now_s):
                effects += self.abandon(session, *end_of(session, waits_for, self._pace.advice(), now_s), now_s)
            elif session.phase is Phase.QUEUED or waits_for.missing:
                effects += session.tell_waiting(waits_for.told, now_s, self._timing)
        return effects

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self, now_s: float, *, missing: bool = False) -> list[Effect]:
        """Let time-outs act; ``missing``: nodes of the ring are awaited, without which nothing can come."""
        effects = self.closings.repeat(now_s)
        for session in self.sessions.in_phase(Phase.CLOSING):
            if session.ending and now_s >= session.ending.due_s:
                effects += self._end(session)
        for session in self.sessions.in_phase(Phase.OPEN):
            session.resend.progress_s = now_s if missing else session.resend.progress_s  # that time does not count
            if now_s >= session.stalls_s(self._timing):
                effects += self._stalled(session, now_s)
            elif now_s >= session.resend.due_s:
                effects += ask_again(session, self._pipeline, now_s)
        return effects

    def _stalled(self, session: Session, now_s: float) -> list[Effect]:
        """Have nodes begin anew with a request of which nothing comes any more; end it the second time."""
        said = f"no token for {now_s - session.resend.progress_s:.0f} s"
        if session.stalls_again():
            return self.abandon(session, "failed", f"{said}, twice: see `linguabus nodes`", now_s)
        return [Note(f"{session.request}: {said}", warning=True), *self.put_back(session, now_s)]

    def next_deadline_s(self, *, missing: bool) -> float:
        """When ``tick`` or ``wait`` next has something to do; ``missing`` as in `WaitsFor`."""
        due = [session.next_deadline_s(self._timing, missing=missing) for session in self.sessions]
        return min([*due, self.closings.next_deadline_s()])

    def _progressed(self, session: Session, now_s: float) -> None:
        session.waits_for, session.tell_due_s = "", now_s + self._timing.resend_s
        if session.resend.progressed(now_s, wait_s=self._timing.resend_s):
            self.changed = True  # after a silence it is asked sooner again

    # --- ends -------------------------------------------------------------------------------------------------

    def stop(self, now_s: float) -> list[Effect]:
        """Leave off: the next start goes on with requests that have patience; the others end."""
        effects: list[Effect] = []
        reason = "the orchestrator was stopped: start it and ask again"
        for session in self.sessions:
            if session.phase is Phase.CLOSING:
                effects += self._end(session)
            elif session.submit.patience_s:
                effects += session.tell_waiting("the orchestrator, which was stopped", now_s, self._timing)
            else:
                effects += self.abandon(session, "failed", reason, now_s)
        return effects

    def abandon(self, session: Session, code: ErrorCode, reason: str, now_s: float) -> list[Effect]:
        """Make no more of an answer, and free what it holds."""
        effects = self._close_stages(session, now_s) if session.phase is Phase.OPEN else []
        return [*effects, *self._fail(session, code, reason)]

    def _finish(self, session: Session, reason: FinishReason, now_s: float) -> list[Effect]:
        """End a request whose answer is complete, or of which nobody wants more."""
        was_open = session.phase is Phase.OPEN
        session.end(reason, now_s, due_s=now_s + self._timing.stats_s)
        if not was_open:
            self._queue.leave(session)
            return self._end(session)
        self._pace.ended(now_s, others_wait=bool(self._queue))
        if session.answer and session.placement:
            ids = (*session.answer.prompt.ids, *session.answer.tokens)
            self._prefixes.remember(session.request, session.placement.epoch, ids)
        effects = self._close_stages(session, now_s)
        if not session.submit.stats:
            effects += self._end(session)
        return effects

    def _close_stages(self, session: Session, now_s: float) -> list[Effect]:
        assert session.placement
        return self.closings.close(session.request, (*session.placement.ring, *self._next_nodes), now_s)

    def _end(self, session: Session) -> list[Effect]:
        end = session.end_message()
        return [*session.tell_end(end), Note(ended_text(end)), *self._forget(session)]

    def _fail(self, session: Session, code: ErrorCode, reason: str, summary: str = "") -> list[Effect]:
        """End a request with an error; ``summary`` is for the log where ``reason`` may have people's text in it."""
        self._queue.leave(session)
        if session.awaits_reader:
            return [Note(unheard_text(session.request, session.client)), *self._forget(session)]
        note = Note(f"{session.request} failed ({code}): {summary or reason}", warning=True)
        return [*session.tell_error(code, reason), note, *self._forget(session)]

    def _forget(self, session: Session) -> list[Effect]:
        self.sessions.forget(session.request)
        return [ForgetRequest(session.request)]
