"""Brokers of every kind, with the accidents that can happen to them: what the contract of the bus is checked in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

from broker.bus import Bus
from broker.local_broker import LocalBroker
from broker.memory import MemoryBroker, MemoryBus
from broker.mqtt import MqttBus, ProtocolChoice
from tests.support.members import as_orchestrator
from tests.support.mqtt_proxy import MqttProxy

Connect = Callable[..., Bus]
"""Makes a connected bus; its options are those of the bus."""


class World(Protocol):
    """A broker and the accidents that can happen to it."""

    def make(self, client_id: str, **options: Any) -> Bus:
        """A bus that is not connected yet."""

    def cut(self, bus: Bus) -> None:
        """Lose the connection of this bus abruptly."""

    def stop(self) -> None:
        """Let the broker crash."""

    def start(self) -> None:
        """Bring it back, empty."""

    def close(self) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def make(self, client_id: str, **options: Any) -> Bus:
        return MemoryBus(self.broker, client_id=client_id, **options)

    def cut(self, bus: Bus) -> None:
        self.broker.drop(bus.client_id)

    def stop(self) -> None:
        self.broker.stop()

    def start(self) -> None:
        self.broker.start()

    def close(self) -> None:
        self.broker.start()


class MqttWorld:
    """A broker process; each bus reaches it through a proxy of its own, so that it alone can be cut."""

    def __init__(self, broker: LocalBroker, protocol: ProtocolChoice) -> None:
        self.broker = broker
        self.protocol = protocol
        self.proxies: dict[str, MqttProxy] = {}
        self.stack = ExitStack()

    def make(self, client_id: str, **options: Any) -> Bus:
        proxy = self.stack.enter_context(MqttProxy(self.broker.url))
        self.proxies[client_id] = proxy
        return MqttBus(as_orchestrator(proxy.url), client_id=client_id, protocol=self.protocol, **options)

    def cut(self, bus: Bus) -> None:
        assert self.proxies[bus.client_id].cut() >= 1  # the refused MQTT 5 attempt may still be closing

    def stop(self) -> None:
        self.broker.kill()

    def start(self) -> None:
        self.broker.restart()

    def close(self) -> None:
        self.stack.close()
        if not self.broker.running:
            self.broker.restart()
