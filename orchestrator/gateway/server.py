"""The gateway's server: an HTTP server, a client of the orchestrator, and the application between them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from starlette.routing import Mount

from broker.address import BrokerAddress
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.client import Client
from orchestrator.gateway.access import Guard
from orchestrator.gateway.app import make_app, refusal
from orchestrator.gateway.gateway import Gateway, GatewayLimits
from orchestrator.gateway.host import Host
from orchestrator.gateway.host_routes import UPLOAD_PATH
from orchestrator.service.http_limits import HttpLimits
from orchestrator.service.http_server import HttpServer

MOST_BODY_BYTES = 4 << 20
HTTP_LIMITS = HttpLimits(body_bytes=MOST_BODY_BYTES, request_s=30, idle_s=30, connections_per_address=256)
"""A conversation is longer than what nodes ask for, and a browser keeps its connections."""


@contextmanager
def serving_gateway(
    broker: str | BrokerAddress,
    *,
    host: str,
    port: int,
    guard: Guard | None = None,
    home: Path | None = None,
    tls: ssl.SSLContext | None = None,
    limits: GatewayLimits | None = None,
) -> Iterator[HttpServer]:
    """A gateway that answers while the context lasts.

    Args:
        guard: None lets everybody in who reaches it.
        home: of the fleet's host, where this is one.

    Raises:
        AddressInUse: nothing can listen there.
        BadBrokerUrl, BrokerUnreachable, BrokerRefused: there is no connection to the broker.
    """
    client = AsyncClient(Client.connect(broker))
    at_home = Host(home) if home else None
    gateway = Gateway(client, limits)
    app = make_app(gateway, guard=guard or Guard(), host=at_home)
    routes = [Mount("/", app=app)]
    streamed = {UPLOAD_PATH: gateway.limits.upload_bytes} if at_home else {}
    refuse = refusal(gateway.limits.upload_bytes)
    http_limits = replace(HTTP_LIMITS, streamed=streamed)
    with HttpServer(routes, host=host, port=port, tls=tls, limits=http_limits, refuse=refuse) as server:
        server.call(client.start())
        try:
            yield server
        finally:
            if at_home:
                server.call(at_home.adding.cancel())
            server.call(client.close())
