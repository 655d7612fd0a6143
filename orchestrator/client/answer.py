"""An answer on its way to a client, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from orchestrator.client.answer_stream import StreamMessage
from orchestrator.client.errors import AnswerFailed
from schemas.messages import StreamEnd, StreamText


class Connection(Protocol):
    """What an answer needs of the client that asked."""

    def receive(self, request: str) -> list[StreamMessage]:
        """Wait for something and return what has arrived for this request; nothing after `wake`."""

    def wake(self) -> None:
        """End a wait in `receive` early."""

    def send_cancel(self, request: str) -> None:
        """Tell the orchestrator that nobody wants this answer any more."""

    def leave(self, request: str) -> None:
        """Read no more of an answer."""


class Answer:
    """One answer on its way. Iterate over the object for the text; then ``end`` says how the answer ended."""

    def __init__(self, client: Connection, request: str) -> None:
        self._client = client
        self._cancel_wanted = False
        self.request = request
        self.text = ""
        self.token_ids: list[int] = []
        self.end: StreamEnd | None = None

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
