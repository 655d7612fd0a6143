"""What a joined node costs while nobody asks anything: bytes on the wire, processor, wake-ups; and while it serves.

A fleet as an owner has it: Mosquitto with TLS, keys and roles, an orchestrator and three node processes, two of which
hold the model while the third is a spare. Each node reaches the broker and the HTTP server through relays of its own,
at whose ends the kernel counts: TLS, TCP and IP headers, acknowledgements and keep-alives included. They are left
alone first, for as long as it takes them to become quiet.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import Result, main, note
from services import reading
from smollm2 import open_smollm2

from broker.address import BrokerAddress
from broker.credential import FILE, Credential
from broker.mqtt import MqttBus
from edge_node.telemetry.pace import LINGER_S, SELDOM_S
from orchestrator.client import Client
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from schemas.messages import PlanConstraints
from tests.support.byte_relay import ByteRelay
from tests.support.fleet_world import HOST, enrol, make_fleet
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.services import running_orchestrator, wait_until_serving

HOLDERS, SPARE = ("node-a", "node-b"), "spare"
NODES = (*HOLDERS, SPARE)
SERVE = ("--context", "512", "--slots", "1", "--wire", "fp16", "--min-nodes", "3", "--no-balance", "--pipelines", "1")
PINS = (("embed", "node-a"), ("0-14", "node-a"), ("15-29", "node-b"), ("head", "node-b"))
MEMORY_MB = "400"
WINDOW_S, SERVING_S = 600.0, 60.0
QUICK_S = 2.0
PATIENCE_S = 60.0
"""With an orchestrator on a machine that has other things to do."""
SETTLE_S = LINGER_S + 2 * SELDOM_S
MOST_BYTES_PER_S, MOST_CPU_PERCENT = 1_000.0, 0.5
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """Counters of a node at one moment."""

    at_s: float
    sent_bytes: int
    received_bytes: int
    cpu_s: float
    wake_ups: int


class Metered:
    """A node whose ways out are metered."""

    def __init__(self, process: NodeProcess, relays: tuple[ByteRelay, ...]) -> None:
        self._process = process
        self._relays = relays

    def read(self) -> Reading:
        """Its counters now."""
        wire = [relay.wire_bytes() for relay in self._relays]
        proc = Path(f"/proc/{self._process.pid}")
        user_ticks, system_ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        return Reading(
            time.monotonic(), sum(sent for sent, _ in wire), sum(received for _, received in wire),
            (int(user_ticks) + int(system_ticks)) / _TICKS_PER_S, _wake_ups(proc),
        )  # fmt: skip


def _wake_ups(proc: Path) -> int:
    """How often its threads went to sleep by themselves."""
    lines = [line for task in (proc / "task").iterdir() for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def measure(quick: bool, window_s: float) -> list[Result]:
    """What a joined node costs while idle, and while serving."""
    model = open_smollm2("fast")
    window_s, settle_s = (QUICK_S, 0.0) if quick else (window_s, SETTLE_S)
    with _fleet(model) as (client, address, nodes):
        note(f"  idle for {window_s:g} s, after {settle_s:g} s without anything to do")
        time.sleep(settle_s)
        results = _results("idle", nodes, _over(nodes, window_s), with_targets=True)
        with reading(address, 1, prompt_tokens=30, max_tokens=100) as (reader,):
            begin_s = time.monotonic()
            spans = _over(nodes, QUICK_S if quick else SERVING_S)
            tokens = reader.counted(begin_s, time.monotonic())
        results += _results("serving", nodes, spans, with_targets=False)
        results.append(Result("serving: tokens", tokens / (spans[SPARE][1].at_s - begin_s), "tokens/s"))
        for node in client.nodes().nodes:
            note(f"  {node.node} says: {node.sent_bytes} sent, {node.received_bytes} received, {node.tokens} tokens")
    return results


def _over(nodes: dict[str, Metered], seconds: float) -> dict[str, tuple[Reading, Reading]]:
    before = {name: node.read() for name, node in nodes.items()}
    time.sleep(seconds)
    return {name: (before[name], node.read()) for name, node in nodes.items()}


def _results(
    when: str, nodes: dict[str, Metered], spans: dict[str, tuple[Reading, Reading]], *, with_targets: bool
) -> list[Result]:
    results = []
    for name in nodes:
        before, after = spans[name]
        passed_s = after.at_s - before.at_s
        sent, received = after.sent_bytes - before.sent_bytes, after.received_bytes - before.received_bytes
        wire = (sent + received) / passed_s
        cpu_percent = 100 * (after.cpu_s - before.cpu_s) / passed_s
        note(
            f"  {when}: {name}: {sent / passed_s:.0f} bytes/s sent, {received / passed_s:.0f} received,"
            f" {cpu_percent:.2f} % of a core"
        )
        label = f"{when}: {name}{' (no layers)' if name == SPARE else ''}"
        most = (MOST_BYTES_PER_S, MOST_CPU_PERCENT) if with_targets else (None, None)
        results += [
            Result(f"{label}: on the wire, both ways", wire, "bytes/s", at_most=most[0]),
            Result(f"{label}: processor", cpu_percent, "% of a core", at_most=most[1]),
            Result(f"{label}: wake-ups", (after.wake_ups - before.wake_ups) / passed_s, "/s"),
        ]
    return results


@contextmanager
def _fleet(model: Model) -> Iterator[tuple[Client, BrokerAddress, dict[str, Metered]]]:
    """An operator, the broker's address for readers, and the nodes, once the fleet serves."""
    parent = model.blobs_folder.parent
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent)))
        home = folder / "orchestrator"
        fleet = make_fleet(home)
        relays = {}
        for name in NODES:
            credential = enrol(fleet, name, "node")
            ports = credential.broker_port, credential.http_port
            broker, http = relays[name] = tuple(stack.enter_context(ByteRelay((HOST, port))) for port in ports)
            replace(credential, broker_port=broker.port, http_port=http.port).save(folder / name / FILE)
        store = ModelStore(parent)
        stack.enter_context(running_orchestrator(None, store, home, "--model", model.manifest.name, *SERVE))
        running = stack.enter_context(running_nodes(NODES, None, folder, "--memory-limit-mb", MEMORY_MB))
        operator = Credential.load(home / FILE)
        assert operator
        bus = stack.enter_context(MqttBus(operator.broker(), client_id="bench-operator"))
        bus.connect()
        client = Client(
            bus, name=operator.name, connection="bench-operator", broker=str(bus.address), control_timeout_s=PATIENCE_S
        )
        wait_until_serving(client)
        client.apply(PlanConstraints(pins=PINS), timeout_s=120.0)
        yield client, operator.broker(), {name: Metered(running[name], relays[name]) for name in NODES}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--window-s", type=float, default=WINDOW_S, help="how long to measure idle nodes [%(default)s]")


if __name__ == "__main__":
    main("idle", measure, add_options=_options)
