"""Each contract test runs in every world."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from broker.bus import Bus, Connected
from broker.local_broker import LocalBroker
from schemas.topics import PREFIX
from tests.support.bus_worlds import Connect, MemoryWorld, MqttWorld, World
from tests.support.polling import collect
from tests.support.secured_broker import SecuredBroker

_numbers = itertools.count(1)
KINDS = ("memory", "mosquitto-5", "mosquitto-3.1.1", "embedded", "secured")
"""In plain text and over TLS: bytes come another way."""

BROKERS: dict[str, Callable[[], LocalBroker]] = {
    "mosquitto": lambda: LocalBroker("mosquitto"),
    "embedded": lambda: LocalBroker("embedded"),
    "secured": SecuredBroker,
}


@pytest.fixture(scope="module")
def broker_processes() -> Iterator[Callable[[str], LocalBroker]]:
    """Real brokers, each started when first asked for."""
    started: dict[str, LocalBroker] = {}
    with ExitStack() as stack:

        def get(kind: str) -> LocalBroker:
            if kind not in started:
                started[kind] = stack.enter_context(BROKERS[kind]())
            return started[kind]

        yield get


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, broker_processes: Callable[[str], LocalBroker]) -> Iterator[World]:
    kind, _, protocol = request.param.partition("-")
    made = MemoryWorld() if kind == "memory" else MqttWorld(broker_processes(kind), protocol or "auto")
    yield made
    made.close()


@pytest.fixture
def connect(world: World) -> Iterator[Connect]:
    """Make a connected bus whose first event has been read; closed after the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Bus:
            bus = world.make(f"client-{next(_numbers)}", **options)
            stack.enter_context(bus)
            bus.connect()
            assert collect(bus, bool) == [Connected(session_present=False, reconnect=False)]
            return bus

        yield make


@pytest.fixture
def base() -> str:
    """A topic prefix of this test alone, which the role of the orchestrator has."""
    return f"{PREFIX}/test/{next(_numbers)}"
