"""Tellers: what is said on the bus of how things are, besides what the core says. Each keeps retained messages true."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from broker.bus import Bus, Delivery
from broker.errors import QueueFull
from schemas.messages import DoorState, encode
from schemas.topics import DOOR

LOOK_S = 0.25


class Teller(Protocol):
    """Owned by the thread that owns the bus."""

    def begin(self) -> None:
        """Subscribe to what it has to hear."""

    def take(self, delivery: Delivery) -> bool:
        """Take in a message; false for one that is somebody else's."""

    def look(self, now_s: float) -> None:
        """Say what has changed; called a few times a second."""

    def again(self) -> None:
        """Say everything once more: the broker may have forgotten it."""

    def end(self) -> None:
        """Say what is true when the orchestrator has ended."""


class Tellers:
    """All tellers of a service."""

    def __init__(self) -> None:
        self._all: list[Teller] = []
        self._due_s = 0.0

    def add(self, teller: Teller) -> None:
        """Have one more."""
        self._all.append(teller)

    def begin(self) -> None:
        """Let each subscribe."""
        for teller in self._all:
            teller.begin()

    def take(self, delivery: Delivery) -> bool:
        """Has one taken in a message?"""
        return any(teller.take(delivery) for teller in self._all)

    def look(self, now_s: float) -> None:
        """Let each say what has changed; not with every token."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + LOOK_S
        for teller in self._all:
            try:
                teller.look(now_s)
            except QueueFull:
                teller.again()

    def again(self) -> None:
        """Let each say everything at the next look, which is now."""
        self._due_s = 0.0
        for teller in self._all:
            teller.again()

    def end(self) -> None:
        """Let each say what is true when the orchestrator has ended."""
        for teller in self._all:
            with suppress(QueueFull):
                teller.end()


class DoorTeller:
    """Tells whether devices may join the fleet."""

    def __init__(self, bus: Bus, pipeline: str, door: Callable[[float], tuple[float, ...]]) -> None:
        """``door``: the ends of the invitations that are good at a time, in seconds since 1970."""
        self._bus = bus
        self._pipeline = pipeline
        self._door = door
        self._told: DoorState | None = None

    def begin(self) -> None:
        """It has nothing to hear."""

    def take(self, delivery: Delivery) -> bool:
        """It has nothing to hear."""
        return False

    def look(self, now_s: float) -> None:
        """Tell when the door opens or closes, or is open for longer."""
        ends = self._door(time.time())
        self._tell(
            DoorState(pipeline=self._pipeline, open=bool(ends), open_until=max(ends, default=None), invited=len(ends))
        )

    def again(self) -> None:
        """Tell it at the next look, whatever was told."""
        self._told = None

    def end(self) -> None:
        """Nobody joins when nobody serves."""
        self._tell(DoorState(pipeline=self._pipeline, open=False, invited=0))

    def _tell(self, state: DoorState) -> None:
        if state != self._told:
            self._told = state
            self._bus.publish(DOOR.format(pipeline=self._pipeline), encode(state), qos=DOOR.qos, retain=DOOR.retain)
