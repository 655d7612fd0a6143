"""A gateway in front of an orchestrator with real nodes that compute the model tiny."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.local_broker import LocalBroker
from orchestrator.gateway.gateway import GatewayLimits
from orchestrator.gateway.server import serving_gateway
from orchestrator.model.store import ModelStore
from tests.support.gateway_world import HOST
from tests.support.members import as_operator
from tests.support.moves import PLANS, Moving, moving
from tests.support.nodes import NodeProcess


@dataclass(frozen=True)
class RealGateway:
    """Its address as a URL, and the fleet behind it."""

    root: str
    fleet: Moving
    nodes: dict[str, NodeProcess]


@contextmanager
def real_gateway(store: ModelStore, broker: LocalBroker, folder: Path, *node_options: str) -> Iterator[RealGateway]:
    """Nodes a, c and b are a ring. In a stream something is said five times a second."""
    with moving(store, broker, folder, "abc", *node_options) as (fleet, nodes):
        fleet.apply(PLANS[1])
        limits = GatewayLimits(quiet_s=0.2)
        with serving_gateway(as_operator(broker.url), host=HOST, port=0, limits=limits) as server:
            yield RealGateway(f"http://{HOST}:{server.port}", fleet, nodes)
