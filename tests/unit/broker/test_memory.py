"""What the in-process twin can do beyond the contract."""

from __future__ import annotations

import threading

import pytest

from broker.bus import Connected, Disconnected, Subscribed, Will
from broker.errors import BrokerRefused, SubscribeRefused
from broker.memory import MemoryBroker, MemoryBus
from tests.support.polling import collect, collect_deliveries, deliveries, subscribe


def make(broker: MemoryBroker, client_id: str, will: Will | None = None) -> MemoryBus:
    bus = MemoryBus(broker, client_id=client_id, will=will)
    bus.connect()
    assert bus.poll(0) == [Connected(session_present=False, reconnect=False)]
    return bus


def test_chosen_deliveries_are_repeated() -> None:
    broker = MemoryBroker()
    bus = make(broker, "a")
    subscribe(bus, "t")
    broker.repeat = lambda delivery: delivery.payload == b"twice"
    for payload in (b"once", b"twice", b"end"):
        bus.publish("t", payload)
    assert [delivery.payload for delivery in bus.poll(0)] == [b"once", b"twice", b"twice", b"end"]  # type: ignore[union-attr]


def test_clients_can_be_refused() -> None:
    broker = MemoryBroker()
    broker.refuse_client = lambda client_id: client_id == "mallory"
    make(broker, "anna")
    with pytest.raises(BrokerRefused):
        MemoryBus(broker, client_id="mallory").connect()


def test_patterns_can_be_refused() -> None:
    broker = MemoryBroker()
    broker.refuse_pattern = lambda pattern: pattern.startswith("secret")
    bus = make(broker, "a")
    bus.subscribe(["fine", "secret/#"])
    with pytest.raises(SubscribeRefused, match="secret/#"):
        bus.poll(0)
    assert bus.poll(0) == [Subscribed(("fine",))]


def test_a_second_client_of_the_same_id_takes_over() -> None:
    broker = MemoryBroker()
    watcher = make(broker, "watcher")
    subscribe(watcher, "status")
    older = make(broker, "a", will=Will("status", b"gone"))
    newer = make(broker, "a")
    assert [delivery.payload for delivery in collect_deliveries(watcher, 1)] == [b"gone"]
    assert newer.connected
    assert not older.connected
    assert older.poll(0)[0] == Disconnected("session taken over")


def test_threads_share_one_order() -> None:
    broker = MemoryBroker()
    readers = [make(broker, f"reader-{number}") for number in range(2)]
    for reader in readers:
        subscribe(reader, "t")

    def send(name: str) -> None:
        bus = make(broker, name)
        for number in range(200):
            bus.publish("t", f"{name} {number}".encode())

    threads = [threading.Thread(target=send, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    seen = [[delivery.payload for delivery in collect_deliveries(reader, 600)] for reader in readers]
    for thread in threads:
        thread.join()
    assert seen[0] == seen[1]
    for name in (b"a", b"b", b"c"):
        assert [payload for payload in seen[0] if payload.startswith(name)] == [
            b"%s %d" % (name, number) for number in range(200)
        ]


def test_a_poll_in_another_thread_reconnects_when_the_broker_is_back() -> None:
    broker = MemoryBroker()
    bus = make(broker, "a")
    broker.stop()
    assert bus.poll(0) == [Disconnected("connection lost")]
    back = threading.Timer(0.0, broker.start)
    back.start()
    assert collect(bus, bool) == [Connected(session_present=False, reconnect=True)]
    back.join()
    assert deliveries(bus.poll(0)) == []
