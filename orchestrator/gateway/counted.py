"""Counts requests by route and status, whatever comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.gateway.metrics import AnswerMetrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NO_ROUTE = "none"


class Counted:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: AnswerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count once the answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: Any = scope.get("route")
                self._metrics.requested(getattr(route, "path", "") or _NO_ROUTE, message["status"])
            await send(message)

        await self._app(scope, receive, counting)
