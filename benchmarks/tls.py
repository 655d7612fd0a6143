"""What TLS, keys and roles cost: decode of one answer over two nodes, in a fleet and on an open broker, in turn.

Both installations are there all the time: Mosquitto, an orchestrator and two node processes each, on loopback, where
nothing but the encryption itself takes time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Result, main
from side_by_side import compared, serving

from broker.address import BrokerAddress, parse_broker_url
from broker.credential import FILE
from broker.local_broker import LocalBroker
from broker.member_key import hash_of, new_key
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.model import Model
from tests.support.fleet_world import enrol, make_fleet

NODES = ("node-a", "node-b")
PINS = (("embed", "node-a"), ("0-14", "node-a"), ("15-29", "node-b"), ("head", "node-b"))
LEAST = 0.97
"""Of the speed on an open broker."""


@contextmanager
def plain(model: Model, folder: Path) -> Iterator[BrokerAddress]:
    """An installation on a broker that takes everybody."""
    with LocalBroker(kind="mosquitto") as broker, serving(model, folder, broker.url, NODES):
        yield parse_broker_url(broker.url)


@contextmanager
def guarded(model: Model, folder: Path) -> Iterator[BrokerAddress]:
    """An installation of a fleet: TLS, a key and a role for each member."""
    home = folder / "orchestrator"
    fleet = make_fleet(home)
    for name in NODES:
        enrol(fleet, name, "node").save(folder / name / FILE)
    with serving(model, folder, None, NODES):
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
    return compared(
        ("decode in a fleet", guarded), ("decode on an open broker", plain), pins=PINS, quick=quick,
        named="decode with TLS, keys and roles over none", at_least=LEAST,
    )  # fmt: skip


if __name__ == "__main__":
    main("tls", measure)
