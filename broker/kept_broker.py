"""A broker that is started again at its port when it has ended: who was connected comes back without being told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, Self

from broker.errors import BrokerDidNotStart
from broker.restarts import GIVEN_UP, Restarts
from schemas.closing import Closing

_LOOK_S = 0.25


class Restartable(Protocol):
    """A broker that was started as a child process."""

    @property
    def running(self) -> bool:
        """True while its process lives."""
        ...

    def how_ended(self) -> str:
        """How its process has ended, in words for people."""
        ...

    def restart(self) -> None:
        """Start it again; raises `BrokerDidNotStart`, OSError."""
        ...

    def close(self) -> None:
        """End it. Idempotent."""
        ...


class KeptBroker(Closing):
    """Looks after a broker that runs. A context manager; leaving it ends the broker, too."""

    def __init__(self, broker: Restartable, *, say: Callable[[str], None], on_given_up: Callable[[], None]) -> None:
        """Both are called in a thread: ``say`` with a line for people, ``on_given_up`` once `failure` is set."""
        self._broker = broker
        self._say = say
        self._on_given_up = on_given_up
        self.failure = ""
        """Why it is not started any more; empty while it is looked after."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kept broker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Look after it no more, and end it. Idempotent."""
        self._over.set()
        self._broker.close()  # which a start that is under way notices
        self._thread.join()
        self._broker.close()  # what that start has left

    def _run(self) -> None:
        restarts, failure = Restarts(), ""
        while not self._over.wait(_LOOK_S):
            if self._broker.running:
                continue
            how = failure or f"the broker {self._broker.how_ended()}"
            pause_s = restarts.pause_s(time.monotonic())
            if pause_s is None:
                self.failure = f"{how}; {GIVEN_UP}"
                self._on_given_up()
                return
            if self._over.wait(pause_s):
                return
            failure = self._restarted()
            if not failure:
                self._say(f"{how}; started again")

    def _restarted(self) -> str:
        """Start it again; how that has failed, if it has."""
        try:
            self._broker.restart()
        except (BrokerDidNotStart, OSError) as error:  # OSError: no more processes, no room for its log
            return str(error)
        return ""
