"""An answer on its way to a client, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from orchestrator.client.answer_reader import Waiting
from orchestrator.client.answer_stream import AnswerStream, StreamMessage
from orchestrator.client.answer_times import AnswerTimes
from orchestrator.client.errors import AnswerFailed, AnswerIncomplete
from schemas.messages import StreamEnd, StreamText, TokenLogprobs


class Connection(Protocol):
    """What an answer needs of the client that asked."""

    def receive(self, request: str) -> list[StreamMessage]:
        """Wait for something, half a second at the most, and return what has arrived for this request."""

    def waiting(self, request: str) -> Waiting | None:
        """What an answer waits for; None while it is being computed."""

    def wake(self) -> None:
        """End a wait in `receive` early."""

    def send_cancel(self, request: str) -> None:
        """Tell the orchestrator that nobody wants this answer any more."""

    def leave(self, request: str) -> None:
        """Read no more of an answer."""


class AnswerSoFar:
    """What has come of an answer; then ``end`` says how it ended."""

    def __init__(self, stream: AnswerStream) -> None:
        self.stream = stream
        self.request = stream.submit.request
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        """How likely they were, where that was asked for."""
        self.end: StreamEnd | None = None

    def _add(self, piece: StreamText) -> None:
        self.text += piece.text
        self.token_ids.extend(piece.token_ids)
        self.logprobs.extend(piece.logprobs or ())


class Answer(AnswerSoFar):
    """One answer on its way. Iterate over the object for the text."""

    def __init__(self, client: Connection, stream: AnswerStream) -> None:
        super().__init__(stream)
        self._client = client
        self._cancel_wanted = False
        self._was_waiting = False
        self.on_waiting: Callable[[Waiting | None], None] = lambda _: None
        """Called about twice a second while the answer waits for something, and with None when it goes on."""

    @property
    def times(self) -> AnswerTimes:
        """When its pieces came."""
        return self.stream.times

    def cancel(self) -> None:
        """Ask for the answer's end; the iteration goes on until the orchestrator confirms. Safe in signal handlers."""
        self._cancel_wanted = True
        self._client.wake()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the answer's text, piece by piece. An answer that is left early is cancelled.

        Raises:
            AnswerFailed: the orchestrator says that there will be no (more) answer.
            AnswerIncomplete: a piece is missing, or nobody is there any more.
        """
        try:
            while self.end is None:
                if self._cancel_wanted:
                    self._cancel_wanted = False
                    self._client.send_cancel(self.request)
                    self._check_cancelled()
                messages = self._client.receive(self.request)
                self._tell_waiting()
                for message in messages:
                    if isinstance(message, StreamText):
                        self._add(message)
                        if message.text:
                            yield message.text
                    elif isinstance(message, StreamEnd):
                        self.end = message
                    else:
                        raise AnswerFailed(message.code, message.reason)
        finally:
            self._client.leave(self.request)

    def _check_cancelled(self) -> None:
        """End at once where nobody is there to confirm it."""
        waiting = self._client.waiting(self.request)
        if waiting and waiting.is_for_orchestrator:
            raise AnswerIncomplete(f"cancelled while it waited for {waiting.text}")

    def _tell_waiting(self) -> None:
        waiting = self._client.waiting(self.request)
        if waiting or self._was_waiting:
            self.on_waiting(waiting)
        self._was_waiting = waiting is not None
