"""One answer on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from orchestrator.client.answer_stream import StreamMessage
from orchestrator.client.errors import AnswerFailed
from schemas.messages import StreamEnd, StreamText


class Connection(Protocol):
    """What an answer needs of the client that asked."""

    def receive(self, request: str) -> list[StreamMessage]:
        """What arrived for this request; waits for something, and returns nothing after `wake`."""

    def wake(self) -> None:
        """End a wait in `receive` early."""

    def send_cancel(self, request: str) -> None:
        """Nobody wants this answer any more."""

    def leave(self, request: str) -> None:
        """Read no more of an answer."""


class Answer:
    """One answer on its way. Iterate over it for the text; then ``end`` says how it ended."""

    def __init__(self, client: Connection, request: str) -> None:
        self._client = client
        self._cancel_wanted = False
        self.request = request
        self.text = ""
        self.token_ids: list[int] = []
        self.end: StreamEnd | None = None

    def cancel(self) -> None:
        """Ask for the end; the iteration goes on until the orchestrator confirms it. Safe in signal handlers."""
        self._cancel_wanted = True
        self._client.wake()

    def __iter__(self) -> Iterator[str]:
        """The answer, piece by piece. One that is left early is cancelled.

        Raises:
            AnswerFailed: the orchestrator says that there will be no (more) answer.
            AnswerIncomplete: a piece is missing, or nobody is there any more.
        """
        try:
            while self.end is None:
                if self._cancel_wanted:
                    self._cancel_wanted = False
                    self._client.send_cancel(self.request)
                for message in self._client.receive(self.request):
                    if isinstance(message, StreamText):
                        self.text += message.text
                        self.token_ids.extend(message.token_ids)
                        if message.text:
                            yield message.text
                    elif isinstance(message, StreamEnd):
                        self.end = message
                    else:
                        raise AnswerFailed(message.code, message.reason)
        finally:
            self._client.leave(self.request)
