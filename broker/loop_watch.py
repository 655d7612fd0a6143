"""Has an event loop wait for a bus, so that the loop's own thread can be the bus's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from broker.bus import HasDescriptor, WatchedBus


class LoopWatch:
    """Calls a function in an event loop when a bus has something to do; it polls the bus, and calls `look` again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bus: WatchedBus, turn: Callable[[], None]) -> None:
        self._loop = loop
        self._bus = bus
        self._turn = turn
        self._wake: int | None = None
        self._connection: HasDescriptor | None = None
        self._descriptor = -1
        self._writes = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def look(self, until_s: float) -> None:
        """Wait for what the bus waits for now, and until a time (monotonic clock). After each use of the bus."""
        waits = self._bus.waits()
        if self._wake is None:
            self._wake = waits.wake
            self._loop.add_reader(self._wake, self._turn)
        if waits.connection is not self._connection:  # another one may have the number of the one before
            self._forget_connection()
            if waits.connection is not None:
                self._connection, self._descriptor = waits.connection, waits.connection.fileno()
                self._loop.add_reader(self._descriptor, self._turn)
        if self._connection is not None and waits.writes != self._writes:
            self._writes = waits.writes
            if self._writes:
                self._loop.add_writer(self._descriptor, self._turn)
            else:
                self._loop.remove_writer(self._descriptor)
        until_s = min(until_s, waits.until_s)
        if self._timer is None or until_s < self._timer_s:  # an earlier one does no harm, and setting one costs time
            self._set_timer(until_s)

    def _set_timer(self, until_s: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._timer_s = None, until_s
        if until_s < float("inf"):
            self._timer = self._loop.call_later(max(0.0, until_s - time.monotonic()), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._turn()

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
        self._connection, self._writes = None, False

    def close(self) -> None:
        """Wait for nothing any more. Idempotent."""
        self._forget_connection()
        if self._wake is not None:
            self._loop.remove_reader(self._wake)
            self._wake = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
