"""Running an orchestrator: its bus, database and HTTP server around the service."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.model.store import ModelStore
from orchestrator.service.blobs import BLOBS_PATH, blob_routes
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.service.http_server import HttpServer, reachable_urls
from orchestrator.service.incumbent import ask_for_incumbent, will_of
from orchestrator.service.service import Service

KEEPALIVE_S = 5
"""The broker gives up a connection without a word for 1.5 times as long: readers, and another start, hear of it."""


@dataclass(frozen=True)
class ServiceInfo:
    """What ``on_ready`` gets: messages flow and blobs can be fetched."""

    broker: str
    blob_urls: tuple[str, ...]
    pipeline: str
    model: str | None
    generation: int


def run_service(
    config: ServiceConfig,
    *,
    stop: threading.Event,
    on_connected: Callable[[], None] = lambda: None,
    on_ready: Callable[[ServiceInfo], None] | None = None,
) -> None:
    """Run an orchestrator until ``stop`` is set; the caller maps signals to it, when it is connected or before.

    Raises:
        LinguabusError: no broker, the address is taken, the database can't be used, another orchestrator took over.
    """
    from broker.mqtt import MqttBus

    store = ModelStore(config.models_dir or config.data_dir / "models")
    orchestrator = secrets.token_hex(4)
    client_id, will = f"orchestrator-{config.pipeline}-{orchestrator}", will_of(config.pipeline, orchestrator)
    with (
        Database(config.data_dir / "state.sqlite3") as state,
        MqttBus(config.broker_url, client_id=client_id, will=will, keepalive_s=KEEPALIVE_S) as bus,
        HttpServer(blob_routes(store.blobs_folder), host=config.blob_host, port=config.blob_port) as http,
    ):
        bus.connect()
        on_connected()
        least = ask_for_incumbent(bus, config.pipeline, orchestrator, take_over=config.take_over)
        own_urls = reachable_urls(config.blob_host, http.port, (bus.address.host, bus.address.port))
        blob_urls = tuple(f"{url.rstrip('/')}{BLOBS_PATH}" for url in config.advertised_urls or own_urls)
        service = Service(
            config, bus, store, state, blob_urls=blob_urls, orchestrator=orchestrator, least_generation=least
        )
        info = ServiceInfo(
            broker=str(bus.address),
            blob_urls=blob_urls,
            pipeline=config.pipeline,
            model=service.core.plane.opening,
            generation=service.core.plane.pipelines.generation,
        )
        service.run(stop, lambda: on_ready(info) if on_ready else None)
