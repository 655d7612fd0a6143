"""All sessions of a pipeline by request, and what they amount to (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.deployment.open_requests import OpenWork
from orchestrator.requests.answer_record import AnswerRecord
from orchestrator.requests.ended_requests import EndedRequest, EndedRequests
from orchestrator.requests.session import Phase, Session
from schemas.messages import RequestFailed


class SessionTable:
    """A pipeline's sessions in order of submission."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self.ended = EndedRequests()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __getitem__(self, request: str) -> Session:
        return self._sessions[request]

    def get(self, request: str) -> Session | None:
        return self._sessions.get(request)

    def add(self, session: Session) -> None:
        self._sessions[session.request] = session

    def forget(self, request: str) -> None:
        """Forget a session that has ended; what its client was told is remembered for a while."""
        session = self._sessions.pop(request)
        if session.end_told:
            answer = AnswerRecord.of(session.answer) if session.answer else None
            self.ended.add(request, EndedRequest(session.client, answer, session.end_told))

    def take(self, request: str) -> Session:
        """Give a session away, as if it had never been here."""
        return self._sessions.pop(request)

    def was_submitted(self, request: str) -> bool:
        """Is this request here, or has it ended lately?"""
        return request in self._sessions or request in self.ended

    def concerned(self, failure: RequestFailed) -> Session | None:
        """The session of the request that a stage can't go on with; None when it has moved on."""
        session = self.get(failure.request)
        if session is None or session.phase is not Phase.OPEN or session.placement is None:
            return None
        is_its = failure.node in session.placement.ring and failure.epoch == session.placement.epoch
        return session if is_its else None

    def in_phase(self, phase: Phase) -> Iterator[Session]:
        return (session for session in self if session.phase is phase)

    def open_in_order(self, first: Iterable[str]) -> list[Session]:
        """Sessions that stages hold a slot for: those of the requests ``first``, in that order, then the others."""
        ranks = {request: rank for rank, request in enumerate(first)}
        return sorted(self.in_phase(Phase.OPEN), key=lambda session: ranks.get(session.request, len(ranks)))

    @property
    def open_count(self) -> int:
        """Requests that stages hold a slot for."""
        return sum(1 for _ in self.in_phase(Phase.OPEN))

    @property
    def in_prefill(self) -> bool:
        """Does an open request wait for the first token of its ring?"""
        return any(session.in_prefill for session in self.in_phase(Phase.OPEN))

    @property
    def in_move(self) -> bool:
        """Does an answer that has begun wait for the first token of another ring?"""
        return any(session.in_prefill and session.tokens_known for session in self.in_phase(Phase.OPEN))

    @property
    def open_work(self) -> OpenWork:
        """How much KV cache the open requests hold, and how many tokens they may still want."""
        answers = [session.answer for session in self.in_phase(Phase.OPEN) if session.answer]
        return OpenWork(
            requests=len(answers),
            positions=sum(answer.next_position for answer in answers),
            answer_tokens=sum(len(answer.tokens) for answer in answers),
            remaining_tokens=sum(answer.remaining_tokens for answer in answers),
        )
