"""Running an orchestrator: its bus, database and HTTP server around the service."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from broker import heap
from broker.mqtt import MqttBus
from orchestrator.errors import PipelineTaken, Superseded
from orchestrator.identity.membership import Membership
from orchestrator.model.store import ModelStore
from orchestrator.service.blobs import BLOBS_PATH, blob_routes
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.service.departures import departure_route
from orchestrator.service.home_teller import HomeTeller
from orchestrator.service.http_access import Access
from orchestrator.service.http_server import HttpServer, reachable_urls
from orchestrator.service.incumbent import ask_for_incumbent, will_of
from orchestrator.service.member_addresses import address_route
from orchestrator.service.phone_files import phone_routes
from orchestrator.service.service import Service
from orchestrator.service.standby import stand_by
from orchestrator.service.tellers import DoorTeller

logger = logging.getLogger(__name__)

KEEPALIVE_S = 5
"""The broker gives up a connection without a word for 1.5 times as long: readers, and another start, hear of it."""


TRIM_INTERVAL_S = 60.0
"""What requests come with is freed between what is kept of them, and in hours the heap grows by the gaps."""


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
    membership: Membership | None = None,
    on_connected: Callable[[], None] = lambda: None,
    on_standby: Callable[[str], None] | None = None,
    on_ready: Callable[[ServiceInfo], None] | None = None,
) -> None:
    """Run an orchestrator until ``stop`` is set; the caller maps signals to it, when it is connected or before.

    One that stands by serves whenever nobody else does; ``on_standby`` is told the broker's address each time it
    begins to wait. ``membership``: of the fleet that is served, to whose members alone models are given.

    Raises:
        LinguabusError: no broker, the address is taken, the database can't be used, another orchestrator took over.
    """
    store = ModelStore(config.models_dir or config.data_dir / "models")
    with Database(config.data_dir / "state.sqlite3") as state:
        while not config.standby or _is_needed(config, store, state, stop, on_connected, on_standby):
            try:
                _serve(config, store, state, stop, membership, on_connected, on_ready)
            except (PipelineTaken, Superseded):
                if not config.standby:
                    raise
                logger.info("another orchestrator serves pipeline %s: this one stands by again", config.pipeline)
            else:
                return


def _is_needed(
    config: ServiceConfig,
    store: ModelStore,
    state: Database,
    stop: threading.Event,
    on_connected: Callable[[], None],
    on_standby: Callable[[str], None] | None,
) -> bool:
    """Stand by; false once ``stop`` is set."""
    orchestrator = secrets.token_hex(4)
    # A bus of its own, without a will: that of who only waits would say that nobody serves.
    with MqttBus(config.broker_url, client_id=f"standby-{config.pipeline}-{orchestrator}") as bus:
        bus.connect()
        on_connected()
        if on_standby:
            on_standby(str(bus.address))
        return stand_by(bus, config.pipeline, orchestrator, state, store, stop)


def _http_server(config: ServiceConfig, store: ModelStore, membership: Membership | None) -> HttpServer:
    access = Access(membership.admits) if membership else None
    routes = blob_routes(store.blobs_folder, access)
    if membership and access:
        routes += [*membership.enrolment.routes(), *phone_routes()]
        routes += [address_route(membership, access), departure_route(membership, access)]
    tls = membership.tls if membership else None
    return HttpServer(routes, host=config.blob_host, port=config.blob_port, tls=tls)


def _serve(
    config: ServiceConfig,
    store: ModelStore,
    state: Database,
    stop: threading.Event,
    membership: Membership | None,
    on_connected: Callable[[], None],
    on_ready: Callable[[ServiceInfo], None] | None,
) -> None:
    if config.standby:
        logger.info("no orchestrator serves pipeline %s any more: this one does from now on", config.pipeline)
    orchestrator = secrets.token_hex(4)
    # The broker ends the connection of who has the same client id, whoever connects: nobody is to guess this one.
    client_id = f"orchestrator-{config.pipeline}-{orchestrator}-{secrets.token_hex(8)}"
    will = will_of(config.pipeline, orchestrator)
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(MqttBus(config.broker_url, client_id=client_id, will=will, keepalive_s=KEEPALIVE_S))
        bus.connect()
        on_connected()
        take_over = config.take_over or config.standby  # who stands by has seen that nobody answers
        last = ask_for_incumbent(bus, config.pipeline, orchestrator, take_over=take_over)
        # Only now: whoever serves the fleet on this machine has its port, and that it serves is what is to be said.
        http = stack.enter_context(_http_server(config, store, membership))
        if membership:
            own_urls = membership.urls(http.port)
        else:
            own_urls = reachable_urls(config.blob_host, http.port, (bus.address.host, bus.address.port))
        blob_urls = tuple(f"{url.rstrip('/')}{BLOBS_PATH}" for url in config.advertised_urls or own_urls)
        service = Service(config, bus, store, state, blob_urls=blob_urls, orchestrator=orchestrator, last=last)
        if membership:
            service.inbox.on_heard = membership.saw
            service.inbox.is_member = membership.is_member
            membership.on_gone = service.revoked
            service.tellers.add(DoorTeller(bus, config.pipeline, membership.door))
            membership.on_certificate = lambda file: http.load_certificate(file, file)
        if config.home_assistant:
            home = HomeTeller(
                bus,
                config.home_assistant,
                service.core.plane,
                models=store.names,
                is_member=service.inbox.is_member,
                has_door=membership is not None,
            )
            service.tellers.add(home)
        info = ServiceInfo(
            broker=str(bus.address),
            blob_urls=blob_urls,
            pipeline=config.pipeline,
            model=service.core.plane.opening,
            generation=service.core.plane.pipelines.generation,
        )
        stack.enter_context(heap.trimming(every_s=TRIM_INTERVAL_S))
        service.run(stop, lambda: on_ready(info) if on_ready else None)
