"""What an interface shows of the answers to one request: whole, and as the events of a stream (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from orchestrator.gateway.errors import ApiError, openai_body
from orchestrator.gateway.event_stream import DONE, event
from schemas.messages import StreamEnd, StreamText, TokenLogprobs, ToolFormat

Event = dict[str, Any]


class Answered(Protocol):
    """What is read of an answer."""

    text: str
    logprobs: list[TokenLogprobs]
    end: StreamEnd | None

    @property
    def tool_format(self) -> ToolFormat | None:
        """How its model writes calls of tools."""


class Shape:
    """The answers to one request, each with its own number."""

    last_line = DONE
    """What a stream ends with that has not failed."""

    def begin(self, request: str) -> None:
        """Name it by the orchestrator's request, by which its story is found."""
        raise NotImplementedError

    def whole(self, answers: Sequence[Answered]) -> Event:
        """The body once all answers have ended."""
        raise NotImplementedError

    def opening(self, number: int) -> list[Event]:
        """The events before an answer's first piece."""
        return []

    def piece(self, number: int, piece: StreamText, answer: Answered) -> list[Event]:
        """The events of a piece."""
        raise NotImplementedError

    def end(self, number: int, answer: Answered) -> list[Event]:
        """The events of an answer's end."""
        raise NotImplementedError

    def closing(self, answers: Sequence[Answered]) -> list[Event]:
        """The events after all ends."""
        return []

    def failed(self, error: ApiError) -> Event:
        """The event of an error after the stream's beginning."""
        return openai_body(error)

    def line(self, shown: Event) -> bytes:
        """An event as the stream has it."""
        return event(shown)
