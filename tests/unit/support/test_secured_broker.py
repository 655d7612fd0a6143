"""The broker of the tests: who is let in, what it remembers, and the proxy that stands in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.bus import Connected, Disconnected
from broker.errors import BrokerRefused, BrokerUnreachable
from broker.mqtt import MqttBus
from tests.support.bus_recorder import until
from tests.support.members import as_member, as_operator, as_orchestrator
from tests.support.mqtt_proxy import MqttProxy, Side
from tests.support.polling import DEADLINE_S, collect, collect_deliveries, subscribe
from tests.support.secured_broker import SecuredBroker

TOPIC = "linguabus/v1/plan/main"
LARGE = bytes(range(256)) * 4_000


@pytest.fixture(scope="module")
def broker() -> Iterator[SecuredBroker]:
    with SecuredBroker() as running:
        yield running


@pytest.fixture
def watcher(broker: SecuredBroker) -> Iterator[MqttBus]:
    with MqttBus(as_orchestrator(broker.url), client_id="watcher") as bus:
        bus.connect(DEADLINE_S)
        subscribe(bus, TOPIC, qos=1)
        yield bus


def test_members_are_let_in_as_soon_as_they_are_needed_and_nobody_notices(
    broker: SecuredBroker, watcher: MqttBus
) -> None:
    for name in ("phone", "tablet"):
        with MqttBus(as_member(broker.url, name, "node"), client_id=name) as node:
            node.connect(DEADLINE_S)
    with pytest.raises(AssertionError, match="one name, one role"):
        as_member(broker.url, "phone", "client")
    watcher.publish(TOPIC, b"still here", qos=1)
    assert [event.payload for event in collect_deliveries(watcher, 1)] == [b"still here"]
    assert watcher.stats.reconnects == 0


def test_nobody_else_is_let_in(broker: SecuredBroker) -> None:
    with MqttBus(broker.url, client_id="s") as stranger, pytest.raises(BrokerUnreachable, match="not believed"):
        stranger.connect(DEADLINE_S)
    known = as_operator(broker.url)
    with (
        MqttBus(known, client_id="s", username="nobody") as stranger,
        pytest.raises(BrokerRefused),
    ):
        stranger.connect(DEADLINE_S)


def test_it_remembers_and_is_asked_anew(tmp_path: Path) -> None:
    database = tmp_path / "mosquitto.db"
    with SecuredBroker(folder=tmp_path, remembers=True) as broker:
        with MqttBus(as_orchestrator(broker.url), client_id="a") as bus:
            bus.connect(DEADLINE_S)
            bus.publish(TOPIC, b"remember me", qos=1, retain=True)
            assert bus.flush(DEADLINE_S)
            until("a saved message", lambda: database.exists() and b"remember me" in database.read_bytes())
            broker.kill()
        joined_meanwhile = as_member(broker.url, "late", "node")
        broker.restart()
        with MqttBus(joined_meanwhile, client_id="late") as node:
            node.connect(DEADLINE_S)
            node.subscribe([TOPIC])
            assert [event.payload for event in collect_deliveries(node, 1)] == [b"remember me"]


def test_a_proxy_in_front_of_it_sees_packets(broker: SecuredBroker, watcher: MqttBus) -> None:
    with MqttProxy(broker.url) as proxy, MqttBus(as_orchestrator(proxy.url), client_id="sender") as sender:
        sender.connect(DEADLINE_S)
        subscribe(sender, TOPIC, qos=1)
        sent = [b"", b"x", LARGE, b"y"]
        for payload in sent:
            sender.publish(TOPIC, payload, qos=1)
        assert [event.payload for event in collect_deliveries(sender, 4)] == sent, "and back again"
        assert [event.payload for event in collect_deliveries(watcher, 4)] == sent
        assert sender.flush(DEADLINE_S)
        assert (proxy.up.publishes, proxy.down.publishes) == (4, 4)
        until("the last acknowledgement", lambda: proxy.up.bytes == sender.stats.bytes_out)

        proxy.alter(TOPIC, bytes.upper, side=Side.DOWN)
        sender.publish(TOPIC, b"quiet", qos=1)
        assert [event.payload for event in collect_deliveries(sender, 1)] == [b"QUIET"]
        assert [event.payload for event in collect_deliveries(watcher, 1)] == [b"quiet"]

        assert sender.flush(DEADLINE_S), "what is not acknowledged is sent again"
        assert proxy.cut() == 1
        collect(sender, lambda events: {Connected, Disconnected} <= {type(event) for event in events})
        sender.publish(TOPIC, b"back", qos=1)
        assert [event.payload for event in collect_deliveries(watcher, 1)] == [b"back"]
    assert proxy.malformed == 0


def test_a_proxy_closes_what_is_no_tls(broker: SecuredBroker) -> None:
    with (
        MqttProxy(broker.url) as proxy,
        MqttBus(f"mqtt://127.0.0.1:{proxy.port}", client_id="plain") as bus,
        pytest.raises(BrokerUnreachable),
    ):
        bus.connect(10.0)
