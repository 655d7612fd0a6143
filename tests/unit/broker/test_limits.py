"""Messages that a broker does not take: said by it, found out, or never said at all."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from broker import connection
from broker.bus import Connected, Disconnected, Event, Refused
from broker.errors import PayloadTooLarge
from broker.mqtt import MOST_LOSSES, MqttBus, ProtocolChoice
from tests.support.configured_broker import configured_broker
from tests.support.fake_broker import CONNACK_OK_5, CONNACK_OK_311, FakeBroker
from tests.support.mqtt_packets import CONNECT, PUBLISH, Packet
from tests.support.polling import collect, collect_deliveries, subscribe


@pytest.fixture(autouse=True)
def reconnects_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECONNECT_MIN_S", 0.001)


def refusals(events: list[Event]) -> list[Refused]:
    return [event for event in events if isinstance(event, Refused)]


def connack_with_limit(max_packet_bytes: int) -> bytes:
    return bytes([0x20, 8, 0, 0, 5, 0x27]) + max_packet_bytes.to_bytes(4, "big")


def test_a_found_limit_is_kept_like_an_announced_one() -> None:
    with FakeBroker(lambda _: connack_with_limit(4_096)) as broker, MqttBus(broker.url, client_id="x") as bus:
        bus.connect()
        announced_bytes = bus.announced_payload_bytes
        assert announced_bytes == bus.max_payload_bytes == 4_080
        bus.limit_payload(1_000)
        assert (bus.announced_payload_bytes, bus.max_payload_bytes) == (announced_bytes, 1_000)
        for qos in (0, 1):
            with pytest.raises(PayloadTooLarge, match="1,001 bytes is over the limit of 1,000"):
                bus.publish("t", bytes(1_001), qos=qos)
        bus.limit_payload(None)
        bus.publish("t", bytes(1_001))


@pytest.mark.parametrize(
    ("code", "words"), [(0x95, "packet too large"), (0x87, "not authorized"), (0xEE, "reason code 0xee")]
)
def test_a_puback_that_says_no_is_an_event_and_not_the_end_of_the_connection(code: int, words: str) -> None:
    def answer(packet: Packet) -> bytes:
        if packet.kind != PUBLISH:
            return CONNACK_OK_5
        packet_id = packet.publish(is_v5=True).packet_id
        assert packet_id
        return bytes([0x40, 3, *packet_id.to_bytes(2, "big"), code])

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x", protocol="5") as bus:
        bus.connect()
        bus.publish("t", b"never", qos=1)
        events = collect(bus, lambda events: bool(refusals(events)))
        assert refusals(events) == [Refused("t", 5, words)]
        assert bus.flush(20)
        assert bus.connected


def test_a_message_that_costs_the_connection_each_time_is_given_up() -> None:
    """As a broker does to MQTT 3.1.1 whose limit is exceeded; the message before it is acknowledged."""

    def answer(packet: Packet) -> bytes | None:
        if packet.kind != PUBLISH:
            return CONNACK_OK_311 if packet.kind == CONNECT else b""
        publish = packet.publish(is_v5=False)
        assert publish.packet_id
        return None if len(publish.payload) > 1_000 else bytes([0x40, 2, *publish.packet_id.to_bytes(2, "big")])

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x", protocol="3.1.1") as bus:
        bus.connect()
        for size in (10, 2_000, 20):
            bus.publish("t", bytes(size), qos=1)
        events = collect(bus, lambda events: bool(refusals(events)))
        assert [(refused.topic, refused.size_bytes) for refused in refusals(events)] == [("t", 2_000)]
        assert sum(isinstance(event, Disconnected) for event in events) == MOST_LOSSES
        assert bus.flush(20), "what waited behind it is sent"


def test_a_message_of_the_queue_that_the_next_broker_does_not_take() -> None:
    limits = itertools.chain([100_000], itertools.repeat(4_096))
    with FakeBroker(lambda _: connack_with_limit(next(limits))) as broker, MqttBus(broker.url, client_id="x") as bus:
        bus.connect()
        broker.send(bytes([0xE0, 0]))
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
        bus.publish("t", bytes(50_000), qos=1)
        events = collect(bus, lambda events: bool(refusals(events)))
        assert Connected(session_present=False, reconnect=True) in events
        assert refusals(events) == [Refused("t", 50_000, "over the limit of 4,077 bytes")]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_mosquitto_with_a_limit_that_it_does_not_announce(protocol: ProtocolChoice, tmp_path: Path) -> None:
    """With MQTT 5 it answers with a reason code that the standard has no PUBACK for, with 3.1.1 as if all were well."""
    with (
        configured_broker(tmp_path, "message_size_limit 5000", "max_queued_messages 1000") as port,
        MqttBus(f"mqtt://127.0.0.1:{port}", client_id="x", protocol=protocol) as bus,
    ):
        bus.connect()
        subscribe(bus, "t")
        bus.publish("t", bytes(5_001), qos=1)
        bus.publish("t", b"mark")
        if protocol == "5":
            events = collect(bus, lambda events: bool(refusals(events)))
            assert refusals(events) == [Refused("t", 5_001, "packet too large")]
        else:
            assert [delivery.payload for delivery in collect_deliveries(bus, 1)] == [b"mark"]
        assert bus.flush(20)
        assert bus.stats.reconnects == 0
