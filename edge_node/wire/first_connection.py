"""The first connection to a broker, which may be slower to start than the node: after a power cut, everybody starts."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.bus import Bus
from broker.errors import BrokerUnreachable

_PAUSE_S = 2.0


def connect_patiently(bus: Bus, timeout_s: float, *, tell: Callable[[str], None], is_over: Callable[[], bool]) -> None:
    """Connect; while nobody answers, say so and try again, until ``is_over``.

    Raises:
        BrokerRefused: the broker does not take the node.
        BrokerUnreachable: it is over.
    """
    while True:
        try:
            return bus.connect(timeout_s)
        except BrokerUnreachable as error:
            if is_over():
                raise
            tell(f"waits for the broker: {error.address}: {error.reason}")
            time.sleep(_PAUSE_S)
