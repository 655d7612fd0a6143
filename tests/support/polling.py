"""Wait for events of a bus, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.bus import Bus, Delivery, Event, Subscribed

DEADLINE_S = 120.0
"""Whatever is awaited comes long before, on a slow machine that has other things to do too."""


def collect(bus: Bus, until: Callable[[list[Event]], bool], deadline_s: float = DEADLINE_S) -> list[Event]:
    """Poll until the predicate holds for all events so far, and return them; AssertionError at the deadline."""
    end_s = time.monotonic() + deadline_s
    events: list[Event] = []
    while not until(events):
        left_s = end_s - time.monotonic()
        assert left_s > 0, f"waited {deadline_s} s in vain; got {len(events)} events: {events[-20:]}"
        events += bus.poll(left_s)
    return events


def collect_deliveries(bus: Bus, count: int, deadline_s: float = DEADLINE_S) -> list[Delivery]:
    """Poll until `count` deliveries are there, and return all of them."""
    return deliveries(collect(bus, lambda events: len(deliveries(events)) >= count, deadline_s))


def deliveries(events: list[Event]) -> list[Delivery]:
    """The deliveries among events."""
    return [event for event in events if isinstance(event, Delivery)]


def subscribe(bus: Bus, *patterns: str, qos: int = 0) -> None:
    """Subscribe and wait for the SUBACK; drops what arrives before it."""
    bus.subscribe(patterns, qos)
    collect(bus, lambda events: Subscribed(patterns) in events)
