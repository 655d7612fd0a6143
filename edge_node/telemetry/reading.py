"""What is read of the device again and again, in a thread of its own: files and commands of a device can hang."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from edge_node.telemetry.system_command import NoReading

Value = TypeVar("Value")


class Reading(Generic[Value]):
    """The last known value of something; whoever wants it never waits for the device."""

    def __init__(
        self,
        read: Callable[[], Value],
        before: Value,
        *,
        name: str,
        every_s: float,
        heard: Callable[[Value], None] | None = None,
    ) -> None:
        """Begin to read.

        Args:
            read: reads once; whatever it raises for want of a reading leaves the last value as it was.
            before: the value until there is another.
            name: the thread's.
            every_s: how long to wait between two readings.
            heard: is given every new value, by the thread.
        """
        self.value = before
        self._read, self._every_s, self._heard = read, every_s, heard
        self._first = threading.Event()
        self._hurry = threading.Event()
        self._is_over = False
        threading.Thread(target=self._keep_reading, name=name, daemon=True).start()

    def await_first(self, patience_s: float) -> Value:
        """The value once there is one, or the one before when patience is over."""
        self._first.wait(patience_s)
        return self.value

    def hurry(self) -> None:
        """Read once more at once."""
        self._hurry.set()

    def close(self) -> None:
        """Read no more."""
        self._is_over = True
        self._hurry.set()

    def _keep_reading(self) -> None:
        while not self._is_over:
            with contextlib.suppress(NoReading, OSError, ValueError):
                self.value = self._read()
                if self._heard is not None:
                    self._heard(self.value)
            self._first.set()
            if self._hurry.wait(self._every_s):
                self._hurry.clear()
