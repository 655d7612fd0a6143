"""``/health`` and ``/ready``: is the gateway there, and can it answer?"""

from __future__ import annotations

import contextlib
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from orchestrator.gateway.errors import RETRY_AFTER_S, ApiError
from orchestrator.gateway.gateway import Gateway
from schemas import PACKAGE_VERSION
from schemas.errors import LinguabusError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the format that every Prometheus reads."""
OLLAMA_VERSION = "0.9.0"
"""Some clients ask for 0.6.4 at least."""


def state_routes(gateway: Gateway) -> APIRouter:
    """The routes of a gateway; no key is asked for, and nothing of the fleet is told but whether it serves."""
    router = APIRouter(tags=["State"])

    @router.get("/api/version")
    async def version() -> dict[str, str]:
        """The version of Ollama's interface that is spoken here."""
        return {"version": OLLAMA_VERSION}

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """The gateway is there."""
        return {"status": "ok", "version": PACKAGE_VERSION}

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics. The names of nodes are in them, and nothing that anybody has asked."""
        overview = None
        with contextlib.suppress(LinguabusError):
            overview = await gateway.client.overview()
        return Response(gateway.metrics.text(overview), media_type=CONTENT_TYPE)

    @router.get("/ready")
    async def ready() -> dict[str, Any]:
        """A question would be answered now; 503 if not, with what is missing."""
        status = await gateway.client.status()
        if status.state != "serving":
            why = status.reason or status.state
            raise ApiError(503, f"not serving: {why}", code="not_ready", retry_after_s=RETRY_AFTER_S)
        return {"status": "ok", "model": status.model}

    return router
