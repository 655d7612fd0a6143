"""The whole orchestrator in a thread, for tests with a real broker and real nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.service.config import ServiceConfig
from orchestrator.service.service import ServiceInfo, run_service
from schemas.messages import Plan, decode
from schemas.topics import PLAN
from tests.support.polling import collect, deliveries

_TIMEOUT_S = 30.0


def wait_until_serving(client: Client) -> None:
    """Ask until there is a plan in force."""
    while client.control("status")["state"] != "serving":
        client.control("nodes")


def await_plan(broker: str) -> None:
    """Return when a plan is in force."""
    with MqttBus(broker, client_id="watcher") as bus:
        bus.connect()
        bus.subscribe([PLAN.filter()], qos=1)
        collect(bus, lambda events: any(decode(d.payload, Plan).ring for d in deliveries(events)), _TIMEOUT_S)


@contextmanager
def running_service(config: ServiceConfig) -> Iterator[ServiceInfo]:
    """Runs until the context is left; an error that ended it is raised there."""
    stop, ready = threading.Event(), threading.Event()
    infos: list[ServiceInfo] = []
    errors: list[Exception] = []

    def on_ready(info: ServiceInfo) -> None:
        infos.append(info)
        ready.set()

    def run() -> None:
        try:
            run_service(config, stop=stop, on_ready=on_ready)
        except Exception as error:
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="orchestrator")
    thread.start()
    try:
        assert ready.wait(_TIMEOUT_S)
        if errors:
            raise errors[0]
        yield infos[0]
    finally:
        stop.set()
        thread.join(_TIMEOUT_S)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
