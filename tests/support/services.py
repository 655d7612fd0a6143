"""The whole orchestrator in a thread or a process, for tests with a real broker and real nodes."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.address import BrokerAddress
from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.identity.membership import Membership
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.service.run import ServiceInfo, run_service
from orchestrator.timing import Timing
from schemas.contract import load
from schemas.messages import Plan, PlanConstraints, decode
from schemas.topics import PLAN
from tests.support.members import FleetUrl, as_operator, as_orchestrator
from tests.support.nodes import NodeProcess
from tests.support.polling import DEADLINE_S, collect, deliveries
from tests.support.repository import ROOT

QUICK = Timing(settle_s=0.2, start_s=1.0, loss_settle_s=0.1, resend_s=0.5)
"""For nodes of one machine: nothing is waited for that is there already."""


@contextmanager
def patient_client(broker_url: str | BrokerAddress) -> Iterator[Client]:
    """A client that does not take an orchestrator on a busy machine for one that is away."""
    connection = f"client-{secrets.token_hex(4)}"
    address = as_operator(broker_url) if isinstance(broker_url, str) else broker_url
    with MqttBus(address, client_id=connection) as bus:
        bus.connect(DEADLINE_S)
        yield Client(
            bus, name=bus.address.username or connection, connection=connection, broker=str(broker_url),
            control_timeout_s=DEADLINE_S, lease_s=DEADLINE_S,
        )  # fmt: skip


def operator(broker_url: str, **options: Any) -> Client:
    """A client that asks and commands; the options are those of `Client.connect`."""
    return Client.connect(as_operator(broker_url), **options)


def wait_until_serving(client: Client) -> None:
    """Ask until there is a plan in force."""
    end_s = time.monotonic() + DEADLINE_S
    while (status := client.status()).state != "serving":
        assert time.monotonic() < end_s, status
        time.sleep(0.01)  # an operator may ask 500 times a second in the long run


def apply(client: Client, *, timeout_s: float = DEADLINE_S, **constraints: Any) -> bool:
    """Have the best plan under constraints (JSON's way of saying them) in force; is it another one?"""
    wanted: PlanConstraints = load(PlanConstraints, json.loads(json.dumps(constraints)))
    return client.apply(wanted, timeout_s=timeout_s).changed


def await_plan(broker: str) -> None:
    """Return when a plan is in force."""
    with MqttBus(as_orchestrator(broker), client_id="watcher") as bus:
        bus.connect()
        bus.subscribe([PLAN.filter()], qos=1)
        collect(bus, lambda events: any(decode(d.payload, Plan).ring for d in deliveries(events)), DEADLINE_S)


@contextmanager
def running_orchestrator(broker_url: str | None, store: ModelStore, home: Path, *options: str) -> Iterator[NodeProcess]:
    """``linguabus serve`` as a process of its own that answers; ``options`` are further command-line options.

    Without a broker it serves the fleet of its home, with the fleet's own broker. For a fleet's broker that runs it
    serves that fleet.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(store.home)
    log_path = home / "orchestrator.log"
    if isinstance(broker_url, FleetUrl):
        broker_url.members.serve_from(home, broker_url.port)
        broker = []
    else:
        broker = ["--with-broker"] if broker_url is None else ["--broker", broker_url]
    command = [sys.executable, "-m", "orchestrator.cli", "--home", str(home), "serve", *broker, *options]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=os.environ
        )
    orchestrator = NodeProcess("orchestrator", home, process, log_path)
    assert process.stdout
    with process.stdout:
        try:
            ready = (b"orchestrator: ", b"standing by ")
            assert any(line.startswith(ready) for line in process.stdout), orchestrator.log()
            yield orchestrator
        finally:
            orchestrator.end()


@contextmanager
def running_service(config: ServiceConfig, *, membership: Membership | None = None) -> Iterator[ServiceInfo]:
    """Runs until the context is left; an error that ended it is raised there.

    On a fleet's broker it serves that fleet.
    """
    if isinstance(config.broker_url, FleetUrl):
        fleet = config.broker_url.members.fleet
        config = replace(config, broker_url=as_orchestrator(config.broker_url), is_guarded=True)
        with (
            Membership(fleet, fleet.own_addresses) as membership,
            running_service(config, membership=membership) as info,
        ):
            yield info
        return
    stop, ready = threading.Event(), threading.Event()
    infos: list[ServiceInfo] = []
    errors: list[Exception] = []

    def on_ready(info: ServiceInfo) -> None:
        infos.append(info)
        ready.set()

    def run() -> None:
        try:
            run_service(config, stop=stop, membership=membership, on_ready=on_ready)
        except Exception as error:
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="orchestrator")
    thread.start()
    try:
        assert ready.wait(DEADLINE_S)
        if errors:
            raise errors[0]
        yield infos[0]
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
