"""What a connection costs on the wire."""

from __future__ import annotations

import socket
import sys

import pytest

from broker.bus import Connected
from broker.mqtt import MqttBus
from broker.wire_bytes import SEGMENT_HEADER_BYTES, estimated, wire_bytes
from tests.support.fake_broker import CONNACK_OK_5, FakeBroker
from tests.support.mqtt_packets import CONNECT, Packet
from tests.support.polling import collect

LENGTH = 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say")
def test_the_system_counts_headers_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as here:
        there, _ = listener.accept()
        with there:
            here.sendall(bytes(LENGTH))
            left = LENGTH
            while left:
                left -= len(there.recv(left))
            there.sendall(b"x")  # what comes back acknowledges all
            here.recv(1)
            counted, counted_there = wire_bytes(here), wire_bytes(there)
    assert counted
    assert counted_there
    sent, received = counted
    assert LENGTH + SEGMENT_HEADER_BYTES < sent < 1.1 * LENGTH
    assert 1 + SEGMENT_HEADER_BYTES <= received < 0.1 * LENGTH
    assert abs(counted_there[1] - sent) <= 2 * SEGMENT_HEADER_BYTES, "the other end sees the same"


@pytest.mark.parametrize("is_told", [True, False])
def test_a_bus_counts_over_all_its_connections(monkeypatch: pytest.MonkeyPatch, is_told: bool) -> None:
    if not is_told:
        monkeypatch.setattr("broker.paho_client.wire_bytes", lambda _: None)

    def answer(packet: Packet) -> bytes:
        return CONNACK_OK_5 if packet.kind == CONNECT else b""

    with FakeBroker(answer) as broker, MqttBus(broker.url, client_id="x") as bus:
        assert (bus.stats.wire_in, bus.stats.wire_out) == (0, 0)
        bus.connect()
        bus.publish("topic", bytes(1000))
        first = bus.stats.wire_out
        assert first >= estimated(1000, 1) if not is_told else first > 0
        broker.send(bytes([0xE0, 0]))  # DISCONNECT
        collect(bus, lambda events: Connected(session_present=False, reconnect=True) in events)
        assert bus.stats.wire_out >= first
        assert bus.stats.wire_out >= bus.stats.bytes_out
        assert bus.stats.wire_in >= bus.stats.bytes_in
