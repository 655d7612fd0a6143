"""The first connection to a broker, which may be slower to start than the node: after a power cut, everybody starts."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.bus import Bus
from broker.errors import BrokerUnreachable
from schemas.back_off import absence_s, out_of_step

_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
"""A device that is out of the house looks for its broker so seldom in the end: looking costs charge, and it is back in
the fleet this long after it has come home, at the latest."""


def connect_patiently(bus: Bus, timeout_s: float, *, tell: Callable[[str], None], is_over: Callable[[], bool]) -> None:
    """Connect; while nobody answers, say so and try again, until ``is_over``.

    Raises:
        BrokerRefused: the broker does not take the node.
        BrokerUnreachable: it is over.
    """
    began_s = time.monotonic()
    while True:
        try:
            return bus.connect(timeout_s)
        except BrokerUnreachable as error:
            if is_over():
                raise
            tell(f"waits for the broker: {error.address}: {error.reason}")
            pause_s = absence_s(time.monotonic() - began_s, _PAUSE_S, LONGEST_PAUSE_S)
            end_s = time.monotonic() + out_of_step(pause_s)
            while time.monotonic() < end_s and not is_over():
                time.sleep(min(_PAUSE_S, max(0.0, end_s - time.monotonic())))
