"""Decode of one answer over three nodes on NATS, which machines without Mosquitto have, and on Mosquitto, in turn.

Both installations are there all the time: a broker, an orchestrator and three node processes each, on loopback.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Result, main
from side_by_side import compared, serving

from broker.local_broker import BrokerKind, LocalBroker
from orchestrator.model.model import Model

NODES = ("node-a", "node-b", "node-c")
PINS = (("embed", "node-a"), ("0-9", "node-a"), ("10-19", "node-b"), ("20-29", "node-c"), ("head", "node-c"))
LEAST = 0.8
"""Of the speed on Mosquitto."""


@contextmanager
def _installed(kind: BrokerKind, model: Model, folder: Path) -> Iterator[str]:
    with LocalBroker(kind) as broker, serving(model, folder, broker.url, NODES):
        yield broker.url


def measure(quick: bool) -> list[Result]:
    """Decode of one stream over three nodes."""
    nats, mosquitto = (functools.partial(_installed, kind) for kind in ("embedded", "mosquitto"))
    return compared(
        ("decode on NATS", nats), ("decode on Mosquitto", mosquitto), pins=PINS, quick=quick,
        named="decode on NATS over Mosquitto", at_least=LEAST,
    )  # fmt: skip


if __name__ == "__main__":
    main("brokers", measure)
