"""Somebody who hears every message on a broker, over connections that break and brokers that restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

from broker.bus import Delivery
from broker.mqtt import MqttBus
from schemas.topics import PREFIX
from tests.support.bus_invariants import BusInvariants
from tests.support.members import as_orchestrator
from tests.support.polling import DEADLINE_S

TURN_S = 0.5


class BusRecorder:
    """Shows all messages to the checker of invariants, in a thread of its own. A context manager."""

    def __init__(self, broker_url: str) -> None:
        self._bus = MqttBus(as_orchestrator(broker_url), client_id="recorder")
        self._seen = BusInvariants()
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="recorder")

    def __enter__(self) -> Self:
        self._bus.connect(DEADLINE_S)
        self._bus.subscribe([f"{PREFIX}/#"], qos=0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._bus.wake()
        self._thread.join()
        self._bus.close()

    def wait_for_free_slots(self, nodes: Collection[str], timeout_s: float = DEADLINE_S) -> None:
        """Return once all nodes have said, from now on, that they hold no request; AssertionError if one does not."""
        with self._changed:
            told = self._seen.open_requests
            told.clear()
            free = self._changed.wait_for(lambda: all(told.get(node) == 0 for node in nodes), timeout_s)
            assert free, f"after {timeout_s:g} s nodes still hold requests, or say nothing: {told}"

    def ring(self, pipeline: str = "main") -> tuple[str, ...]:
        """The nodes of the plan in force."""
        with self._changed:
            return self._seen.rings.get(pipeline, ())

    def online(self) -> set[str]:
        """The nodes that are there, as far as the broker knows."""
        with self._changed:
            return set(self._seen.online)

    def take_violations(self) -> list[str]:
        """What should never have been, since this was last asked. The requests until now are over, and forgotten."""
        with self._changed:
            self._seen.forget_requests()
            found, self._seen.violations = self._seen.violations, []
            return found

    @property
    def messages(self) -> int:
        return self._seen.messages

    def _listen(self) -> None:
        while not self._over.is_set():
            events = self._bus.poll(TURN_S)
            with self._changed:
                for event in events:
                    if isinstance(event, Delivery):
                        self._seen.take(event.topic, bytes(event.payload), retained=event.retain)
                self._changed.notify_all()


def until(what: str, holds: Callable[[], bool], timeout_s: float = DEADLINE_S, turn_s: float = 0.05) -> None:
    """Look again and again until something holds that nobody tells of; AssertionError when it takes too long."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(turn_s)
