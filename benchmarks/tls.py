"""What TLS, keys and roles cost: decode of one answer over two nodes, in a fleet and on an open broker, in turn.

Both installations are there all the time: Mosquitto, an orchestrator and two node processes each, on loopback, where
nothing but the encryption itself takes time.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import harness
from harness import Result, alternate, main, median_result, note
from smollm2 import open_smollm2

from broker.address import BrokerAddress, parse_broker_url
from broker.credential import FILE
from broker.local_broker import LocalBroker
from broker.member_key import hash_of, new_key
from orchestrator.client import Client
from orchestrator.commands.answers import tokens_per_s
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from schemas.messages import PlanConstraints, Sampling
from tests.support.fleet_world import enrol, make_fleet
from tests.support.nodes import running_nodes
from tests.support.services import running_orchestrator, wait_until_serving

NODES = ("node-a", "node-b")
SERVE = ("--context", "1024", "--slots", "1", "--wire", "fp16", "--min-nodes", "2", "--no-balance")
PINS = (("embed", "node-a"), ("0-14", "node-a"), ("15-29", "node-b"), ("head", "node-b"))
PROMPT = "Once upon a time"
MEMORY_MB = "400"
TOKENS = 200
LEAST = 0.97
"""Of the speed on an open broker."""
WARM_UP_TOKENS = 8


@contextmanager
def plain(model: Model, folder: Path) -> Iterator[BrokerAddress]:
    """An installation on a broker that takes everybody."""
    with LocalBroker(kind="mosquitto") as broker, _serving(model, folder, broker.url):
        yield parse_broker_url(broker.url)


@contextmanager
def guarded(model: Model, folder: Path) -> Iterator[BrokerAddress]:
    """An installation of a fleet: TLS, a key and a role for each member."""
    home = folder / "orchestrator"
    fleet = make_fleet(home)
    for name in NODES:
        enrol(fleet, name, "node").save(folder / name / FILE)
    with _serving(model, folder, None):
        yield _reader(fleet)


def _reader(fleet: FleetFolder) -> BrokerAddress:
    """The address for somebody who may ask and command."""
    key = new_key()
    name = f"reader-{secrets.token_hex(2)}"
    with fleet.register() as register:
        register.add(name, "operator", hash_of(key))
    time.sleep(1.0)  # the orchestrator tells the broker within this
    return fleet.credential(name, "operator", key, fleet.own_addresses()).broker()


@contextmanager
def _serving(model: Model, folder: Path, broker_url: str | None) -> Iterator[None]:
    store = ModelStore(model.blobs_folder.parent)
    options = ("--model", model.manifest.name, *SERVE)
    with (
        running_orchestrator(broker_url, store, folder / "orchestrator", *options),
        running_nodes(NODES, broker_url, folder, "--memory-limit-mb", MEMORY_MB),
    ):
        yield


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
            speeds.append(lambda client=client: _speed(client, tokens))  # type: ignore[misc]
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


def _speed(client: Client, tokens: int) -> float:
    """Tokens a second, after the first one."""
    answer = client.ask(prompt=PROMPT, max_tokens=tokens, sampling=Sampling(temperature=0.0))
    for _ in answer:
        pass
    assert answer.end
    return tokens_per_s(answer.end)


if __name__ == "__main__":
    main("tls", measure)
