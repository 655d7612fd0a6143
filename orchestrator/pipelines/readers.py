"""Clients that read answers, and what becomes of answers that nobody reads (pure).

A request may have a lease that its client renews. It ends when the lease is over, or shortly after the client's
connection was lost; a client that is back by then renews its requests, and says what it has missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from orchestrator.effects import Effect, Publish, respond
from orchestrator.events import ClientGone, Malformed
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.pool import PipelinePool
from orchestrator.requests.session import Phase, Session
from orchestrator.timing import Timing
from schemas.limits import MAX_LINE
from schemas.messages import ErrorCode, RenewRequest, ResponseTo, StreamError, SubmitRequest
from schemas.rates import Rate, Rates
from schemas.topics import REQUEST_STREAM

NO_REQUEST = "0" * 16
"""Stands for the request in the answer to a message that does not say which one it is about."""
QUESTIONS = Rate(burst=200, per_s=50.0)
"""Of one client; what waits has a limit of its own."""
REPEATS = Rate(burst=100, per_s=10.0)
"""Of one client, of what it has missed or what can't be read: a short message that a long one may answer."""


class Readers:
    """The readers of all pipelines' requests."""

    def __init__(self, pipelines: PipelinePool, timing: Timing) -> None:
        self._pipelines = pipelines
        self._timing = timing
        self.due_s = math.inf
        """Nobody can count as gone before this."""
        self._questions, self._repeats = Rates(QUESTIONS), Rates(REPEATS)

    def _read(self) -> Iterator[tuple[Pipeline, Session]]:
        """Requests that somebody should be reading, each with its pipeline."""
        for pipeline in self._pipelines.all:
            for session in pipeline.requests.sessions:
                if session.phase is not Phase.CLOSING:
                    yield pipeline, session

    def _reckon(self) -> None:
        self.due_s = min((session.reader_due_s for _, session in self._read()), default=math.inf)

    def asked(self, submit: SubmitRequest, now_s: float) -> None:
        """Note that a client has submitted a request whose lease it is to renew."""
        self.due_s = min(self.due_s, now_s + (submit.lease_s or math.inf))

    # --- what clients say -------------------------------------------------------------------------------------

    def refusal(self, submit: SubmitRequest, now_s: float) -> list[Effect]:
        """The answer to a client that asks too often; none where the question may be taken in."""
        client, request = submit.client, submit.request
        is_known = any(pipeline.requests.knows(request) for pipeline in self._pipelines.all)
        if is_known or self._questions.take(client, now_s):
            return []
        wait_s = math.ceil(self._questions.wait_s(client, now_s))
        reason = f"{client} asks more than {QUESTIONS.per_s:g} questions a second: ask again in {wait_s} s"
        return _errors(client, request, "busy", reason, submit.response)

    def renewed(self, client: str, renew: RenewRequest, now_s: float) -> list[Effect]:
        """Note that a client still reads an answer; tell it what it has missed, or that there is no more to come."""
        request = renew.request
        if renew.repeat and not self._repeats.take(client, now_s):
            renew = replace(renew, repeat=False)  # the reader asks again
        tables = [pipeline.requests.sessions for pipeline in self._pipelines.all]
        session = next((known for table in tables if (known := table.get(request))), None)
        if session and session.client == client:
            if session.awaits_reader:
                self._pipelines.touch_all()  # it may be opened now
            session.renew(now_s)
            if session.is_behind and renew.answer_tokens > session.tokens_known:
                return _errors(client, request, "unknown", "the reader has more of the answer: ask again with that")
            return list(session.told_after(renew.answer_tokens)) if renew.repeat else []
        if not renew.repeat and any(table.was_submitted(request) for table in tables):
            return []  # the end is on its way
        for table in tables:
            if told := table.ended.told_after(renew.answer_tokens, client=client, request=request):
                return [Publish(REQUEST_STREAM.format(client=client, request=request), message) for message in told]
        return _errors(client, request, "unknown", "nobody works on this answer any more: ask again")

    def refuse(self, malformed: Malformed, now_s: float) -> list[Effect]:
        """Answer a message that breaks the contract. It may be damaged: the request that it is about goes on."""
        if not self._repeats.take(malformed.client, now_s):
            return []
        reason = f"the message breaks the contract: {malformed.reason}"
        request = malformed.request or NO_REQUEST
        return _errors(malformed.client, request, "malformed", reason, malformed.response)

    # --- who is gone ------------------------------------------------------------------------------------------

    def gone(self, gone: ClientGone, now_s: float) -> None:
        """Note that a client's connection was lost; maybe the client is about to be back."""
        for _, session in self._read():
            if (session.client, session.submit.connection) == (gone.client, gone.connection):
                session.reader_due_s = min(session.reader_due_s, now_s + self._timing.reader_grace_s)
        self._reckon()

    def hold_clock(self, now_s: float) -> None:
        """Give all readers time from now on: we were cut off, and they may have been cut off as well."""
        for _, session in self._read():
            if session.reader_due_s < now_s + self._timing.reader_return_s:
                session.reader_due_s = now_s + self._timing.reader_return_s
        self._reckon()

    def expire(self, now_s: float) -> list[Effect]:
        """End requests that nobody reads."""
        effects: list[Effect] = []
        for pipeline, session in self._read():
            if now_s >= session.reader_due_s:
                reason = f"nothing is heard of its reader, {session.client}, any more: ask again"
                self._pipelines.touch_all()
                effects += pipeline.requests.abandon(session, "unknown", reason, now_s)
                pipeline.requests.sessions.ended.forget(session.request)  # he may be back, and ask again
        self._reckon()
        return effects


def _errors(
    client: str, request: str, code: ErrorCode, reason: str, response: ResponseTo | None = None
) -> list[Effect]:
    message = StreamError(request=request, code=code, reason=reason[:MAX_LINE])
    return [Publish(REQUEST_STREAM.format(client=client, request=request), message), *respond(response, message)]
