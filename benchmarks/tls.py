"""What TLS, keys and roles cost: decode of one answer over two nodes, in a fleet and on an open broker, in turn.

Both installations are there all the time: Mosquitto, an orchestrator and two node processes each, on loopback, where
nothing but the encryption itself takes time.
"""

from __future__ import annotations

import functools
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import harness
from harness import Result, alternate, main, median_result, note
from services import decode_speed, serving
from smollm2 import open_smollm2

from broker.address import BrokerAddress, parse_broker_url
from broker.credential import FILE
from broker.local_broker import LocalBroker
from broker.member_key import hash_of, new_key
from orchestrator.client import Client
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.model import Model
from schemas.messages import PlanConstraints
from tests.support.fleet_world import enrol, make_fleet
from tests.support.services import wait_until_serving

NODES = ("node-a", "node-b")
PINS = (("embed", "node-a"), ("0-14", "node-a"), ("15-29", "node-b"), ("head", "node-b"))
MEMORY_MB = 400
TOKENS = 200
LEAST = 0.97
"""Of the speed on an open broker."""
WARM_UP_TOKENS = 8


@contextmanager
def plain(model: Model, folder: Path) -> Iterator[BrokerAddress]:
    """An installation on a broker that takes everybody."""
    with LocalBroker(kind="mosquitto") as broker, serving(model, folder, broker.url, NODES, memory_mb=MEMORY_MB):
        yield parse_broker_url(broker.url)


@contextmanager
def guarded(model: Model, folder: Path) -> Iterator[BrokerAddress]:
    """An installation of a fleet: TLS, a key and a role for each member."""
    home = folder / "orchestrator"
    fleet = make_fleet(home)
    for name in NODES:
        enrol(fleet, name, "node").save(folder / name / FILE)
    with serving(model, folder, None, NODES, memory_mb=MEMORY_MB):
        yield _reader(fleet)


def _reader(fleet: FleetFolder) -> BrokerAddress:
    """The address for somebody who may ask and command."""
    key = new_key()
    name = f"reader-{secrets.token_hex(2)}"
    with fleet.register() as register:
        register.add(name, "operator", hash_of(key))
    time.sleep(1.0)  # the orchestrator tells the broker within this
    return fleet.credential(name, "operator", key, fleet.own_addresses()).broker()


def measure(quick: bool) -> list[Result]:
    """Decode of one stream over two nodes."""
    model = open_smollm2("fast")
    tokens = WARM_UP_TOKENS if quick else TOKENS
    with ExitStack() as stack:
        speeds: list[Callable[[], float]] = []
        for install in (guarded, plain):
            parent = model.blobs_folder.parent
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent)))
            client = stack.enter_context(Client.connect(stack.enter_context(install(model, folder))))
            wait_until_serving(client)
            client.apply(PlanConstraints(pins=PINS), timeout_s=120.0)
            speeds.append(functools.partial(decode_speed, client, tokens))
        for speed in speeds:
            speed()
        pairs = alternate(*speeds, 1 if quick else harness.PAIRS)
    ratios = [fleet / open_ for fleet, open_ in pairs]
    note("  pairs: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
    return [
        median_result("decode with TLS, keys and roles over none", ratios, "ratio", at_least=LEAST),
        median_result("decode in a fleet", [fleet for fleet, _ in pairs], "tokens/s"),
        median_result("decode on an open broker", [open_ for _, open_ in pairs], "tokens/s"),
    ]


if __name__ == "__main__":
    main("tls", measure)
