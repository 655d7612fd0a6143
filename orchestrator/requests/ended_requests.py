"""Requests that ended lately, and what their readers were told (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.effects import Publish, respond
from orchestrator.requests.answer_record import AnswerRecord, whole_answer
from schemas.messages import StreamEnd, StreamError, SubmitRequest

_MOST = 1000
_MOST_TOKENS = 100_000
"""All together; those of the oldest are dropped first."""


@dataclass(frozen=True)
class EndedRequest:
    """A request that has ended. ``answer``: what there is of it."""

    client: str
    answer: AnswerRecord | None
    end: StreamEnd | StreamError

    @property
    def tokens(self) -> int:
        """How many the answer has."""
        return len(self.answer.ids) if self.answer else 0

    def told_after(self, tokens: int) -> Sequence[object]:
        """What its reader was told behind the first ``tokens`` tokens, the end last."""
        return (*(self.answer.text_after(tokens) if self.answer else ()), self.end)


class EndedRequests:
    """Requests that ended lately: a QoS 1 submission may arrive twice, and a reader may have been away at the end."""

    def __init__(self) -> None:
        self._requests: dict[str, EndedRequest | None] = {}
        """None where only the name is left."""
        self._tokens = 0

    def __contains__(self, request: str) -> bool:
        return request in self._requests

    def respond(self, again: SubmitRequest) -> list[Publish]:
        """The whole answer once more, for who asks the same again and wants it in one message."""
        known = self._requests.get(again.request)
        if known is None or known.client != again.client or not again.response:
            return []
        return respond(again.response, whole_answer(known.answer, known.end))

    def add(self, request: str, ended: EndedRequest) -> None:
        """Remember a request that has ended."""
        self._requests[request] = ended
        self._tokens += ended.tokens
        if self._tokens > _MOST_TOKENS:
            self._make_room()
        if len(self._requests) > _MOST:
            oldest = next(iter(self._requests))
            self._drop(oldest)
            del self._requests[oldest]

    def forget(self, request: str) -> None:
        """Forget a request, as if it had never been here."""
        if request in self._requests:
            self._drop(request)
            del self._requests[request]

    def _make_room(self) -> None:
        kept = [request for request, known in self._requests.items() if known is not None]
        for oldest in kept[:-1]:
            self._drop(oldest)
            if self._tokens <= _MOST_TOKENS:
                return

    def _drop(self, request: str) -> None:
        known = self._requests[request]
        if known is not None:
            self._tokens -= known.tokens
            self._requests[request] = None

    def told_after(self, tokens: int, *, client: str, request: str) -> Sequence[object]:
        """What this client was told of a request behind the first ``tokens`` tokens of its answer, the end last.

        Nothing where that is not known any more.
        """
        known = self._requests.get(request)
        return known.told_after(tokens) if known is not None and known.client == client else ()
