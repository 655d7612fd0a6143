"""Decode of one answer over three nodes on NATS, which machines without Mosquitto have, and on Mosquitto, in turn.

Both installations are there all the time: a broker, an orchestrator and three node processes each, on loopback.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import harness
from harness import Result, alternate, main, median_result, note
from services import decode_speed, serving
from smollm2 import open_smollm2

from broker.local_broker import BrokerKind, LocalBroker
from orchestrator.client import Client
from schemas.messages import PlanConstraints
from tests.support.services import wait_until_serving

KINDS: tuple[BrokerKind, ...] = ("embedded", "mosquitto")
NODES = ("node-a", "node-b", "node-c")
PINS = (("embed", "node-a"), ("0-9", "node-a"), ("10-19", "node-b"), ("20-29", "node-c"), ("head", "node-c"))
MEMORY_MB = 400
TOKENS = 200
LEAST = 0.8
"""Of the speed on Mosquitto."""
WARM_UP_TOKENS = 8


def measure(quick: bool) -> list[Result]:
    """Decode of one stream over three nodes."""
    model = open_smollm2("fast")
    tokens = WARM_UP_TOKENS if quick else TOKENS
    parent = model.blobs_folder.parent
    with ExitStack() as stack:
        speeds: list[Callable[[], float]] = []
        for kind in KINDS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent)))
            broker = stack.enter_context(LocalBroker(kind))
            stack.enter_context(serving(model, folder, broker.url, NODES, memory_mb=MEMORY_MB))
            client = stack.enter_context(Client.connect(broker.url))
            wait_until_serving(client)
            client.apply(PlanConstraints(pins=PINS), timeout_s=120.0)
            speeds.append(functools.partial(decode_speed, client, tokens))
        for speed in speeds:
            speed()
        pairs = alternate(*speeds, 1 if quick else harness.PAIRS)
    ratios = [nats / mosquitto for nats, mosquitto in pairs]
    note("  pairs: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
    return [
        median_result("decode on NATS over Mosquitto", ratios, "ratio", at_least=LEAST),
        median_result("decode on NATS", [nats for nats, _ in pairs], "tokens/s"),
        median_result("decode on Mosquitto", [mosquitto for _, mosquitto in pairs], "tokens/s"),
    ]


if __name__ == "__main__":
    main("brokers", measure)
