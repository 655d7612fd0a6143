"""The MQTT-aware proxy against a real Mosquitto, with MQTT 5 and 3.1.1 clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bus import Connected, Disconnected, Will
from broker.errors import BrokerUnreachable
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus, ProtocolChoice
from tests.support.mqtt_packets import Framer, MalformedPacket, Publish
from tests.support.mqtt_proxy import MqttProxy, Send, Side, every
from tests.support.polling import DEADLINE_S, collect, collect_deliveries, subscribe


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalBroker]:
    with LocalBroker("mosquitto") as running:
        yield running


@pytest.fixture
def proxy(broker: LocalBroker) -> Iterator[MqttProxy]:
    with MqttProxy(broker.url) as running:
        yield running


class Pair:
    """A sender behind the proxy and a reader straight at the broker."""

    def __init__(self, sender: MqttBus, reader: MqttBus) -> None:
        self.sender = sender
        self.reader = reader

    def send(self, *payloads: bytes, topic: str = "t/a", qos: int = 0) -> None:
        for payload in payloads:
            self.sender.publish(topic, payload, qos=qos)

    def receive(self, count: int) -> list[bytes]:
        return [delivery.payload for delivery in collect_deliveries(self.reader, count)]


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> ProtocolChoice:
    chosen: ProtocolChoice = request.param
    return chosen


@pytest.fixture
def pair(broker: LocalBroker, proxy: MqttProxy, protocol: ProtocolChoice) -> Iterator[Pair]:
    with ExitStack() as stack:

        def bus(url: str, client_id: str, **options: Any) -> MqttBus:
            made = stack.enter_context(MqttBus(url, client_id=client_id, protocol=protocol, **options))
            made.connect()
            return made

        will = Will("t/will", b"gone", retain=False)
        pair = Pair(bus(proxy.url, "sender", will=will), bus(broker.url, "reader"))
        subscribe(pair.reader, "t/#", qos=1)
        yield pair


@pytest.mark.parametrize("qos", [0, 1])
def test_packets_pass_unchanged(pair: Pair, proxy: MqttProxy, qos: int) -> None:
    payloads = [b"", b"x", bytes(range(256)) * 2_000]
    pair.send(*payloads, qos=qos)
    assert pair.receive(3) == payloads
    assert pair.sender.flush(10)
    assert proxy.up.publishes == 3
    assert proxy.up.bytes == pair.sender.stats.bytes_out
    assert proxy.down.bytes == pair.sender.stats.bytes_in
    assert proxy.down.publishes == 0
    assert proxy.connections == 1


@pytest.mark.parametrize("qos", [0, 1])
def test_alter_changes_payload_and_length(pair: Pair, proxy: MqttProxy, qos: int) -> None:
    rule = proxy.alter("t/+", lambda payload: payload[::-1] * 100, when=every(2))
    pair.send(b"one", b"two", b"three", qos=qos)
    assert pair.receive(3) == [b"one", b"owt" * 100, b"three"]
    assert rule.hits == 1
    assert pair.sender.flush(10)


def test_drop_and_remove(pair: Pair, proxy: MqttProxy) -> None:
    rule = proxy.drop("t/b")
    pair.send(b"lost", topic="t/b")
    pair.send(b"first")
    assert pair.receive(1) == [b"first"]
    assert rule.hits == 1
    proxy.remove(rule)
    proxy.remove(rule)
    pair.send(b"second", topic="t/b")
    assert pair.receive(1) == [b"second"]


@pytest.mark.parametrize("qos", [0, 1])
def test_repeat(pair: Pair, proxy: MqttProxy, qos: int) -> None:
    proxy.repeat("t/a", times=3)
    pair.send(b"x", qos=qos)
    pair.send(b"end", topic="t/end", qos=qos)
    assert pair.receive(4) == [b"x", b"x", b"x", b"end"]
    assert pair.sender.flush(10)


def test_a_late_packet_is_overtaken(pair: Pair, proxy: MqttProxy) -> None:
    proxy.delay("t/a", 0.2, overtake=True, when=lambda publish: publish.payload == b"late")
    start_s = time.monotonic()
    pair.send(b"late", b"1", b"2")
    assert pair.receive(3) == [b"1", b"2", b"late"]
    assert time.monotonic() - start_s >= 0.2


def test_a_late_packet_that_holds_up_the_rest(pair: Pair, proxy: MqttProxy) -> None:
    proxy.delay("t/a", 0.1, overtake=False, when=lambda publish: publish.payload == b"late")
    pair.send(b"0", b"late", b"1", b"2")
    assert pair.receive(4) == [b"0", b"late", b"1", b"2"]


def test_rules_act_in_either_direction(broker: LocalBroker, pair: Pair, proxy: MqttProxy) -> None:
    rule = proxy.rule("d/#", lambda publish: [Send(publish), Send(publish.with_payload(b"copy"))], side=Side.DOWN)
    subscribe(pair.sender, "d/#")
    pair.sender.publish("d/x", b"original")
    assert [delivery.payload for delivery in collect_deliveries(pair.sender, 2)] == [b"original", b"copy"]
    assert rule.hits == 1


def test_a_link_delay_applies_to_everything(pair: Pair, proxy: MqttProxy) -> None:
    proxy.up.delay_s = proxy.down.delay_s = 0.05
    start_s = time.monotonic()
    pair.send(b"x", qos=1)
    assert pair.sender.flush(10)  # there and back
    assert time.monotonic() - start_s >= 0.1


def test_a_rate_spaces_the_packets_out(pair: Pair, proxy: MqttProxy) -> None:
    proxy.up.rate_bytes_per_s = 1_000_000
    start_s = time.monotonic()
    payloads = [bytes([number]) * 20_000 for number in range(10)]
    pair.send(*payloads)
    assert pair.receive(10) == payloads
    assert time.monotonic() - start_s >= 0.2


def test_cut_loses_the_connection_without_a_goodbye(pair: Pair, proxy: MqttProxy) -> None:
    proxy.refuse_new = True
    assert proxy.cut() == 1
    assert pair.receive(1) == [b"gone"]
    assert isinstance(collect(pair.sender, bool)[-1], Disconnected)
    proxy.refuse_new = False
    collect(pair.sender, lambda events: Connected(session_present=False, reconnect=True) in events)
    pair.send(b"back")
    assert pair.receive(1) == [b"back"]
    assert proxy.cut() == 1
    assert pair.receive(1) == [b"gone"]


def test_a_silent_link_loses_nothing_and_tells_nobody(pair: Pair, proxy: MqttProxy) -> None:
    proxy.fall_silent()
    pair.send(b"one", b"two")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=DEADLINE_S) as newcomer:
        pair.reader.publish("t/mark", b"mark")
        assert pair.receive(1) == [b"mark"]
        proxy.speak()
        assert newcomer.recv(1) == b"", "it came to nothing"
    assert pair.receive(2) == [b"one", b"two"]


def test_the_end_of_a_connection_does_not_pass_a_silent_link(pair: Pair, proxy: MqttProxy) -> None:
    proxy.fall_silent()
    pair.send(b"last")
    pair.sender.close()
    pair.reader.publish("t/mark", b"mark")
    assert pair.receive(1) == [b"mark"]
    proxy.speak()
    assert pair.receive(1) == [b"last"]


def test_refuse_new_connections(proxy: MqttProxy) -> None:
    proxy.refuse_new = True
    with MqttBus(proxy.url, client_id="x") as bus, pytest.raises(BrokerUnreachable):
        bus.connect(5)


def test_a_clean_goodbye_passes(pair: Pair, proxy: MqttProxy) -> None:
    pair.send(b"last")
    pair.sender.close()
    assert pair.receive(1) == [b"last"]
    pair.reader.publish("t/end", b"end")
    assert pair.receive(1) == [b"end"]  # and no will


def test_no_broker_behind_it(broker: LocalBroker) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{unused.getsockname()[1]}"
        with (
            MqttProxy(url) as proxy,
            MqttBus(proxy.url, client_id="x") as bus,
            pytest.raises(BrokerUnreachable),
        ):
            bus.connect(5)


def test_what_is_not_mqtt_is_cut_off(proxy: MqttProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=DEADLINE_S) as client:
        client.sendall(b"\x10\xff\xff\xff\xff\xff")
        assert client.recv(1) == b""
    assert proxy.malformed == 1


PUBLISHES = st.builds(
    Publish,
    topic=st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=50),
    payload=st.binary(max_size=300),
    retain=st.booleans(),
    properties=st.one_of(st.none(), st.binary(max_size=200)),
)


@given(publish=PUBLISHES, qos=st.sampled_from([0, 1]), cuts=st.lists(st.integers(1, 60)))
def test_packets_survive_parsing_however_they_are_cut(publish: Publish, qos: int, cuts: list[int]) -> None:
    publish = Publish(
        publish.topic, publish.payload, qos, publish.retain, False, 7 if qos else None, publish.properties
    )
    data = publish.encode() * 2
    framer, packets, at = Framer(), [], 0
    for cut in [*cuts, len(data)]:
        packets += framer.feed(data[at : at + cut])
        at += cut
    assert b"".join(packet.data for packet in packets) == data
    for packet in packets:
        assert packet.publish(is_v5=publish.properties is not None) == publish


@given(st.binary(max_size=100))
def test_garbage_never_raises_anything_but_malformed(data: bytes) -> None:
    try:
        for packet in Framer().feed(data):
            packet.publish(is_v5=True)
            packet.connect_version()
    except MalformedPacket:
        pass
