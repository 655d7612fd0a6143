"""Server-sent events: the lines of a stream, and the response that sends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from schemas import json_text

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(value: dict[str, Any], name: str = "") -> bytes:
    """The lines of an event: its name where it has one, and a value."""
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json_text.compact(value)}\n\n".encode()


def comment(text: str) -> bytes:
    """A line that clients pass over, and that people see who look at the stream."""
    return f": {' '.join(text.split())}\n\n".encode()


COMMENT_STARTING = comment("linguabus")
"""Sent at once where nothing may happen for long, so that a reader sees that the stream has begun."""


class LineStream(StreamingResponse):
    """Sends lines as they come, and lets go what was held for them, however it ends."""

    def __init__(self, lines: AsyncGenerator[bytes, None], held: ExitStack, media_type: str) -> None:
        super().__init__(lines, media_type=media_type, headers=HEADERS)
        self._lines = lines
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them. When the caller is gone, this is cancelled."""
        with self._held:
            async with aclosing(self._lines):  # who is cancelled while a line is sent leaves them in the middle
                await super().__call__(scope, receive, send)


class EventStream(LineStream):
    """Lines of server-sent events."""

    def __init__(self, lines: AsyncGenerator[bytes, None], held: ExitStack) -> None:
        super().__init__(lines, held, "text/event-stream")
