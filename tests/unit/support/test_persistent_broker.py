"""The broker of the fault harness remembers what was retained."""

from __future__ import annotations

from pathlib import Path

from broker.mqtt import MqttBus
from tests.support.bus_recorder import until
from tests.support.persistent_broker import PersistentBroker
from tests.support.polling import DEADLINE_S, collect_deliveries


def test_what_is_retained_survives_a_kill(tmp_path: Path) -> None:
    database = tmp_path / "broker" / "mosquitto.db"
    with PersistentBroker(tmp_path / "broker") as broker, MqttBus(broker.url, client_id="a") as bus:
        port = broker.port
        bus.connect(DEADLINE_S)
        bus.publish("t/kept", b"remember me", qos=1, retain=True)
        assert bus.flush(DEADLINE_S)
        until("a saved message", lambda: database.exists() and b"remember me" in database.read_bytes())
        broker.kill()
        assert not broker.running
        broker.restart()
        assert broker.port == port
        with MqttBus(broker.url, client_id="b") as reader:
            reader.connect(DEADLINE_S)
            reader.subscribe(["t/#"])
            (kept,) = collect_deliveries(reader, 1)
    assert (kept.payload, kept.retain) == (b"remember me", True)
