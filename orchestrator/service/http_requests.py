"""Requests that no route gets to see: heads that are too large or ambiguous, bodies that are too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

from orchestrator.service.http_limits import HttpLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Refusal = Callable[[str, int], Response]
"""What is said of a request to a path that is refused with a status."""
_LINE_EXTRA = 4
"""Bytes of a header line beside its name and value."""


class RequestFilter:
    """ASGI middleware that refuses in a few bytes, and ends the connection: what follows on it can't be trusted."""

    def __init__(self, app: ASGIApp, limits: HttpLimits, refuse: Refusal) -> None:
        self._app = app
        self._limits = limits
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        status = _refusal(scope, self._limits)
        if status is None:
            body = _MeasuredBody(receive, send, self._limits.most_body_bytes(scope["path"]))
            await self._app(scope, body.receive, body.send)
            return
        response = self._refuse(scope["path"], status)
        if scope["path"] not in self._limits.streamed:  # what follows is known to be a body, and thrown away
            response.headers["connection"] = "close"
        await response(scope, receive, send)


class _MeasuredBody:
    """A body whose length nobody has said: one that is too long is refused once it is, in the words of the app."""

    def __init__(self, receive: Receive, send: Send, most_bytes: int) -> None:
        self._receive, self._send = receive, send
        self._left = most_bytes
        self._is_answered = False

    async def receive(self) -> Message:
        """Receive some of it.

        Raises:
            HTTPException: 413, it is too long.
        """
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left >= 0:
            return message
        if self._is_answered:
            return {"type": "http.disconnect"}
        raise HTTPException(413)

    async def send(self, message: Message) -> None:
        """Send some of the answer."""
        self._is_answered = True
        await self._send(message)


def refuse_without_words(_path: str, status: int) -> Response:
    """A `Refusal` for programs that know what a status means."""
    return Response(status_code=status)


def _refusal(scope: Scope, limits: HttpLimits) -> int | None:
    """The status to refuse a request with. h11 has refused what is no HTTP, and several or foreign lengths."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = sum(len(name) + len(value) + _LINE_EXTRA for name, value in headers)
    # h11 measures only heads that arrive in parts.
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > limits.head_bytes or len(headers) > limits.headers:
        return 431
    if not scope["raw_path"].startswith(b"/"):
        return 400  # this is no proxy
    framing = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding")}
    if b"transfer-encoding" in framing and (len(framing) > 1 or scope["http_version"] < "1.1"):
        return 400  # where a body ends would depend on who reads it
    if int(framing.get(b"content-length", b"0")) > limits.most_body_bytes(scope["path"]):
        return 413
    return None
