"""How a bus connects, falls back, is refused and gives up; against brokers that answer as they are told."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from dataclasses import replace

import pytest
from paho.mqtt import client as paho

from broker import mqtt
from broker.address import as_address
from broker.bus import Connected, Disconnected, Event, Subscribed, Will
from broker.connection import MAX_EVENTS_PER_TURN, REFUSED_S
from broker.errors import (
    BadBrokerUrl,
    BrokerRefused,
    BrokerUnreachable,
    MemberRefused,
    PayloadTooLarge,
    SubscribeRefused,
)
from broker.local_broker import BrokerKind, LocalBroker
from broker.mqtt import MqttBus, ProtocolChoice
from tests.support.fake_broker import CONNACK_OK_5, CONNACK_OK_311, FakeBroker
from tests.support.mqtt_packets import CONNECT, Packet, Publish
from tests.support.polling import DEADLINE_S, collect

SUBSCRIBE, PINGREQ = 0x80, 0xC0
PINGRESP = bytes([0xD0, 0])


def test_mosquitto_speaks_5_and_the_embedded_broker_3_1_1() -> None:
    expected: dict[BrokerKind, str] = {"mosquitto": "5", "embedded": "3.1.1"}
    for kind, protocol in expected.items():
        with LocalBroker(kind) as broker, MqttBus(broker.url, client_id="x", will=Will("t", b"")) as bus:
            bus.connect()
            assert bus.protocol == protocol


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(bytes([0x20, 2, 0, 1]), id="as MQTT 3.1.1 does"),
        pytest.param(bytes([0x20, 3, 0, 0x84, 0]), id="as MQTT 5 does"),
        pytest.param(b"", id="silence"),
        pytest.param(None, id="hanging up"),
    ],
)
def test_a_broker_without_mqtt_5_is_asked_again_with_3_1_1(refusal: bytes | None) -> None:
    def answer(packet: Packet) -> bytes | None:
        if packet.kind != CONNECT:
            return b""
        return CONNACK_OK_311 if packet.connect_version() == 4 else refusal

    with FakeBroker(answer) as broker:
        with MqttBus(broker.url, client_id="x") as bus:
            bus.connect(timeout_s=DEADLINE_S if refusal != b"" else 3.0)
            assert bus.protocol == "3.1.1"
        assert [packet.connect_version() for packet in broker.packets[:2]] == [5, 4]
        with MqttBus(broker.url, client_id="x", protocol="5") as bus, pytest.raises((BrokerUnreachable, BrokerRefused)):
            bus.connect(timeout_s=DEADLINE_S if refusal != b"" else 0.1)


@pytest.mark.parametrize(
    ("protocol", "connack"),
    [("5", bytes([0x20, 3, 0, 0x87, 0])), ("auto", bytes([0x20, 3, 0, 0x87, 0])), ("3.1.1", bytes([0x20, 2, 0, 5]))],
)
def test_a_refusal_is_not_a_missing_broker(protocol: ProtocolChoice, connack: bytes) -> None:
    with FakeBroker(lambda _: connack) as broker:
        with (
            MqttBus(broker.url, client_id="x", protocol=protocol) as bus,
            pytest.raises(BrokerRefused, match="Not authorized; check user name"),
        ):
            bus.connect()
        assert len(broker.packets) == 1


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x7f\x00", b"\x30\x02\x00\x09", b""])
def test_what_is_no_mqtt_broker_is_unreachable(greeting: bytes) -> None:
    expected = pytest.raises(BrokerUnreachable, match=r"no MQTT broker at mqtt://127.*no CONNACK")
    with FakeBroker(lambda _: greeting) as broker, MqttBus(broker.url, client_id="x") as bus, expected:
        bus.connect(timeout_s=0.2)


def test_tls_to_a_broker_without_it() -> None:
    with FakeBroker(lambda _: b"") as broker:
        url = broker.url.replace("mqtt://", "mqtts://")
        with MqttBus(url, client_id="x") as bus, pytest.raises(BrokerUnreachable):
            bus.connect(timeout_s=0.5)


def test_an_unknown_host_name() -> None:
    with MqttBus("mqtt://no-such-host.invalid", client_id="x") as bus, pytest.raises(BrokerUnreachable):
        bus.connect()


def test_a_bad_url_is_refused_at_once() -> None:
    with pytest.raises(BadBrokerUrl):
        MqttBus("localhost:1883", client_id="x")


def test_user_name_and_password_of_the_url_are_sent() -> None:
    with FakeBroker(lambda _: CONNACK_OK_5) as broker:
        url = broker.url.replace("mqtt://", "mqtt://anna:s%40crit@")
        with MqttBus(url, client_id="x") as bus:
            bus.connect()
            assert "s@crit" not in repr(bus.address) + str(bus.address)
        assert broker.packets[0].data.endswith(b"\0\x04anna\0\x06s@crit")


def test_the_brokers_own_packet_limit_is_kept() -> None:
    connack = bytes([0x20, 8, 0, 0, 5, 0x27, 0, 0, 0x10, 0])  # MaximumPacketSize 4096
    with FakeBroker(lambda _: connack) as broker, MqttBus(broker.url, client_id="x") as bus:
        bus.connect()
        assert 4_000 < bus.max_payload_bytes < 4_096
        with pytest.raises(PayloadTooLarge):
            bus.publish("t", bytes(4_096))


@pytest.mark.parametrize(
    ("protocol", "connack", "suback"),
    [("5", CONNACK_OK_5, b"\0\x01\x87"), ("3.1.1", CONNACK_OK_311, b"\x01\x80")],
)
def test_a_refused_subscription_is_raised_by_poll(protocol: ProtocolChoice, connack: bytes, suback: bytes) -> None:
    def answer(packet: Packet) -> bytes | None:
        if packet.kind != SUBSCRIBE:
            return connack
        body = packet.data[packet.body_at : packet.body_at + 2] + suback
        return bytes([0x90, len(body)]) + body

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x", protocol=protocol) as bus:
        bus.connect()
        bus.subscribe(["fine/#", "secret/#"], qos=1)
        with pytest.raises(SubscribeRefused, match="secret/#") as refused:
            collect(bus, lambda events: len(events) > 2)
        assert refused.value.patterns == ("secret/#",)
        assert Subscribed(("fine/#",)) in bus.poll(0)


def test_credentials_that_are_revoked_later() -> None:
    answers = itertools.chain([CONNACK_OK_5, bytes([0x20, 3, 0, 0x87, 0])], itertools.repeat(CONNACK_OK_5))

    def answer(packet: Packet) -> bytes | None:
        return next(answers) if packet.kind == CONNECT else None

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x") as bus:
        bus.connect()
        # DISCONNECT: session taken over, with a reason string
        broker.send(bytes([0xE0, 6, 0x8E, 4, 0x1F, 0, 1, ord("x")]))
        events = collect(bus, lambda events: Connected(session_present=False, reconnect=True) in events)
        assert events[1] == Disconnected("the broker ended the connection: Session taken over")
        assert [type(event) for event in events] == [Connected, Disconnected, Connected]
        assert len(broker.packets) == 3


def test_a_member_whose_key_is_not_taken_back_is_told_and_tries_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = bytes([0x20, 3, 0, 0x87, 0])
    answers = itertools.chain([CONNACK_OK_5, refused, refused], itertools.repeat(CONNACK_OK_5))
    waits: list[float] = []
    monkeypatch.setattr("broker.connection.out_of_step", lambda wait_s: waits.append(wait_s) or 0.0)

    def answer(packet: Packet) -> bytes | None:
        return next(answers) if packet.kind == CONNECT else None

    with FakeBroker(answer) as broker:
        address = replace(as_address(broker.url), authority="of a fleet", username="phone")
        with MqttBus(address, client_id="x") as bus:
            bus.connect()
            broker.send(bytes([0xE0, 0]))
            for _ in range(2):
                with pytest.raises(MemberRefused, match="phone is no member any more"):
                    collect(bus, lambda _: False)
            assert waits.count(REFUSED_S) == 2
            collect(bus, lambda events: Connected(session_present=False, reconnect=True) in events)


def test_garbage_in_mid_stream_is_a_lost_connection() -> None:
    with FakeBroker(lambda _: CONNACK_OK_5) as broker, MqttBus(broker.url, client_id="x") as bus:
        bus.connect()
        for garbage in (b"\x30\x03\x00\x09a", b"\x30\x05\x00\x03a\xff\xffx", b"\xff\xff\xff\xff\xff\xff", b"\x20\x00"):
            broker.send(garbage)
            events = collect(bus, lambda events: Connected(session_present=False, reconnect=True) in events)
            assert any(isinstance(event, Disconnected) for event in events)


def test_close_while_reconnecting() -> None:
    with FakeBroker(lambda _: CONNACK_OK_5) as broker:
        bus = MqttBus(broker.url, client_id="x")
        bus.connect()
        broker.send(bytes([0xE0, 0]))
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
    bus.poll(0)
    bus.close()


def test_a_dead_link_is_noticed_by_the_keep_alive() -> None:
    def answer(packet: Packet) -> bytes:
        return CONNACK_OK_5 if packet.kind == CONNECT else b""  # pings too stay without an answer

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x", keepalive_s=1) as bus:
        bus.connect()
        events = collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
        assert events[1] == Disconnected("keep alive timeout")


def test_an_answer_that_lies_in_the_socket_keeps_the_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that computed for longer than the keep-alive has not read it yet."""
    clock, skipped_s = time.monotonic, [0.0]
    for module, name in ((time, "monotonic"), (paho, "time_func")):
        monkeypatch.setattr(module, name, lambda: clock() + skipped_s[0])
    pinged = threading.Event()

    def answer(packet: Packet) -> bytes:
        if packet.kind == PINGREQ:
            pinged.set()
        return CONNACK_OK_5 if packet.kind == CONNECT else b""

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x", keepalive_s=60) as bus:
        bus.connect()
        bus.poll(0)
        for _ in range(3):
            skipped_s[0] += 61
            assert bus.poll(0) == []
            assert pinged.wait(20)
            pinged.clear()
            broker.send(PINGRESP)


@pytest.mark.timeout(60)
def test_a_broker_that_dies_while_messages_lie_unread_is_noticed() -> None:
    messages = [Publish("t", b"x" * 20, 1, packet_id=number + 1) for number in range(50)]
    with FakeBroker(lambda _: CONNACK_OK_311) as broker, MqttBus(broker.url, client_id="x", protocol="3.1.1") as bus:
        bus.connect()
        bus.poll(0)
        broker.send(b"".join(message.encode() for message in messages))
        broker.reset()
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
        collect(bus, lambda events: Connected(session_present=False, reconnect=True) in events)


def test_what_one_poll_leaves_is_there_for_the_next() -> None:
    """A packet that is not ours to parse has paho read what lies behind it, one packet at a time."""
    count = MAX_EVENTS_PER_TURN + 500
    with FakeBroker(lambda _: CONNACK_OK_311) as broker, MqttBus(broker.url, client_id="x", protocol="3.1.1") as bus:
        bus.connect()
        broker.send(PINGRESP + Publish("t", b"").encode() * count)
        got: list[Event] = []
        while len(got) < count + 1:  # with Connected
            events = bus.poll(DEADLINE_S)
            assert events
            got += events


def test_a_name_that_is_looked_up_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait() and [])
    with MqttBus("mqtt://slow.invalid", client_id="x") as bus, pytest.raises(BrokerUnreachable, match="timed out"):
        bus.connect(timeout_s=0.05)
    over.set()


def test_what_can_not_be_a_name_is_unreachable() -> None:
    with MqttBus(f"mqtt://{'x' * 64}.invalid", client_id="x") as bus, pytest.raises(BrokerUnreachable, match="no host"):
        bus.connect()


def test_close_does_not_wait_for_a_broker_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "CLOSE_S", 0.05)
    with FakeBroker(lambda packet: CONNACK_OK_5 if packet.kind == CONNECT else b"") as broker:
        with MqttBus(broker.url, client_id="x") as bus:
            bus.connect()
            bus.publish("t", b"never acknowledged", qos=1)
        assert not bus.connected


@pytest.mark.parametrize(("away_s", "battery_wait_s"), [(1.0, 8.0), (200.0, 20.0), (86_400.0, 60.0)])
def test_who_runs_on_a_battery_looks_the_less_often_the_longer_the_broker_is_away(
    monkeypatch: pytest.MonkeyPatch, away_s: float, battery_wait_s: float
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("broker.connection.out_of_step", lambda wait_s: waits.append(wait_s) or wait_s)
    for options in ({}, {"longest_wait_s": 60.0}):
        with FakeBroker(lambda _: CONNACK_OK_5) as broker:
            bus = MqttBus(broker.url, client_id="x", **options)  # type: ignore[arg-type]
            bus.connect()
        with bus:
            collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
            bus._link._failures, bus._link._lost_s = 1_000, time.monotonic() - away_s
            bus._link._schedule_attempt()
    assert waits[1] == 8.0
    assert waits[-1] == pytest.approx(battery_wait_s, rel=0.01)
