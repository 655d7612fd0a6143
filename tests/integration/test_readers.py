"""Readers that go, come back, or can't be followed: the service and its client on real connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from broker.bus import Bus
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from orchestrator.client import Answer, Client, NoOrchestrator
from schemas.messages import ChatMessage, StreamError, decode
from schemas.roles import Role
from schemas.topics import REQUEST_CANCEL, REQUEST_STREAM, REQUEST_SUBMIT
from tests.support.members import as_member, as_orchestrator
from tests.support.mqtt_proxy import MqttProxy
from tests.support.polling import DEADLINE_S, collect_deliveries, subscribe
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import answer_text, make_birth
from tests.support.scripted_service import ScriptedService
from tests.support.secured_broker import SecuredBroker
from tests.support.services import operator

TOKENS = 40


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        yield broker


class World:
    """An orchestrator whose nodes make four tokens of each answer, until ``fleet.most_tokens`` is None."""

    def __init__(self, mosquitto: LocalBroker, folder: Path, stack: ExitStack) -> None:
        self.mosquitto = mosquitto
        self.stack = stack
        births = [make_birth(name) for name in "abcd"]
        self.fleet = stack.enter_context(ScriptedFleet(self.connect("nodes", "orchestrator"), births))
        self.fleet.most_tokens = 4
        service = ScriptedService(
            stack.enter_context(self.connect("orchestrator", "orchestrator")), folder, TinyStore()
        )
        stack.callback(service.end)
        self.operator = stack.enter_context(operator(mosquitto.url))

    def connect(self, client_id: str, role: Role = "client") -> Bus:
        url = self.mosquitto.url
        address = as_orchestrator(url) if role == "orchestrator" else as_member(url, client_id, role)
        bus = MqttBus(address, client_id=client_id)
        bus.connect()
        return bus

    def until_nothing_is_open(self) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            with suppress(NoOrchestrator):  # it may be back later than we are, and has not heard us then
                if not self.operator.status(timeout_s=1.0).open_requests:
                    return
        raise AssertionError("a request stays open")


@pytest.fixture
def world(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(mosquitto, tmp_path, stack)


def begin(client: Client) -> tuple[Answer, Iterator[str], str]:
    """An answer of which the first four tokens are here."""
    answer = client.ask([ChatMessage(role="user", content="hello")], max_tokens=TOKENS)
    pieces = iter(answer)
    return answer, pieces, next(pieces)


def test_a_broker_that_restarts_costs_no_reader_his_answer(world: World) -> None:
    """The reader is back last: everything from the second piece on, the end too, is sent while he is away."""
    with operator(world.mosquitto.url, lease_s=DEADLINE_S) as client:
        answer, pieces, begun = begin(client)
        world.mosquitto.restart()
        world.fleet.most_tokens = None
        world.until_nothing_is_open()
        assert begun + "".join(pieces) == answer_text(5, TOKENS), answer.end


def test_a_reader_whose_connection_breaks_is_back_before_his_answer_ends(world: World) -> None:
    """The broker publishes his will; he renews what he has asked for."""
    proxy = world.stack.enter_context(MqttProxy(world.mosquitto.url))
    wills = world.stack.enter_context(world.connect("wills", "orchestrator"))
    subscribe(wills, "linguabus/v1/client/+/will", qos=1)
    with operator(proxy.url) as client:
        answer, pieces, begun = begin(client)
        proxy.cut()
        assert len(collect_deliveries(wills, 1)) == 1
        reader = threading.Timer(1.5, lambda: setattr(world.fleet, "most_tokens", None))  # more than the will's grace
        reader.start()
        assert begun + "".join(pieces) == answer_text(5, TOKENS)
        reader.join()
        assert answer.end


def test_all_answers_of_a_client_that_is_cut_off_end_until_it_is_back(world: World) -> None:
    proxy = world.stack.enter_context(MqttProxy(world.mosquitto.url))
    with operator(proxy.url, lease_s=None) as client:
        begun = [begin(client) for _ in range(2)]
        proxy.cut()  # and nobody reconnects: this client is not polled
        world.until_nothing_is_open()
        world.fleet.most_tokens = None  # the client is polled again, and asks again with what it has
        for answer, pieces, first in begun:
            assert first + "".join(pieces) == answer_text(5, TOKENS), answer.end


def test_a_silent_connection_counts_as_lost(world: World) -> None:
    """Nobody has closed it, as when a device left the Wi-Fi."""
    bus = world.connect("silent")
    with Client(bus, name="silent", broker=world.mosquitto.url, lease_s=1.0) as client:
        begin(client)
        world.until_nothing_is_open()


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b'{"type":"request.submit","v":1,"request":"%s"}'])
def test_malformed_messages_are_answered(world: World, payload: bytes) -> None:
    request = "00000000000000ab"
    payload = payload.replace(b"%s", request.encode())
    sender = world.stack.enter_context(world.connect("sender"))
    subscribe(sender, REQUEST_STREAM.filter(client="sender"), qos=1)
    told = request if request.encode() in payload else "0" * 16
    for topic, said_of in (
        (REQUEST_SUBMIT.format(client="sender"), told),
        (REQUEST_CANCEL.format(client="sender", request=request), request),
    ):
        sender.publish(topic, payload, qos=1)
        (delivery,) = collect_deliveries(sender, 1)
        assert delivery.topic == REQUEST_STREAM.format(client="sender", request=said_of)
        error = decode(delivery.payload, StreamError)
        assert (error.request, error.code) == (said_of, "malformed")
        assert error.reason.startswith("the message breaks the contract: ")


def test_who_speaks_for_somebody_else_is_told_so(world: World) -> None:
    with operator(world.mosquitto.url) as client:
        answer, pieces, _ = begin(client)
        sender = world.stack.enter_context(world.connect("sender"))
        subscribe(sender, REQUEST_STREAM.filter(client="sender"), qos=1)
        message = b'{"type":"request.cancel","v":1,"request":"%s"}' % answer.request.encode()
        other = REQUEST_CANCEL.format(client="sender", request="00000000000000cd")
        sender.publish(other, message, qos=1)
        (delivery,) = collect_deliveries(sender, 1)
        assert "request: is not that of the topic" in decode(delivery.payload, StreamError).reason
        world.fleet.most_tokens = None
        assert len("".join(pieces)) == TOKENS - 4, "which goes on"
