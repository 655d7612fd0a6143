"""SIGTERM ends every process within five seconds: while it loads, serves, moves layers, reconnects; whatever became of
the broker. ``pytest -m long -s tests/faults/test_ends_when_asked.py`` prints the figures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from orchestrator.client import ClientError
from orchestrator.model.store import ModelStore
from schemas.messages import BlobRef, Epoch, PlanConstraints, PrepareSegment, StageRef, encode
from schemas.topics import NODE_COMMAND, NODE_REPLY
from tests.support.members import as_orchestrator
from tests.support.mqtt_proxy import MqttProxy
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.services import operator, running_orchestrator, wait_until_serving

END_S = 5.0
NOTICED_S = 4.0
"""By then who could notice that the broker is gone has, and tries to reach it."""
FOREVER_S = 3_600.0
MOVE_S = 5.0
"""How long the operator waits for the move that does not end."""
FROM = (("embed", "a"), ("0-1", "a"), ("2-3", "b"), ("head", "b"))
TO = (("embed", "b"), ("0-1", "b"), ("2-3", "a"), ("head", "a"))
"""Blocks move, too: otherwise there would be no rows to copy."""
BLOB = BlobRef(sha256="0" * 64, size_bytes=1_000_000)


def killed(broker: LocalBroker, proxy: MqttProxy) -> None:
    broker.kill()


def stopped(broker: LocalBroker, proxy: MqttProxy) -> None:
    os.kill(broker.pid, signal.SIGTERM)


def frozen(broker: LocalBroker, proxy: MqttProxy) -> None:
    os.kill(broker.pid, signal.SIGSTOP)


def half_open(broker: LocalBroker, proxy: MqttProxy) -> None:
    """Nothing arrives any more, and nobody is told."""
    proxy.up.delay_s = proxy.down.delay_s = FOREVER_S


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """Takes connections and says nothing; the event is set once somebody waits."""
    asked, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                taken.append(listener.accept()[0])
                asked.set()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for sock in taken:
            sock.close()


def begin_to_load(broker: LocalBroker, node: str, blob_url: str, asked: threading.Event) -> None:
    """Have a node download what never comes, as soon as it is there."""
    with operator(broker.url) as client:
        while node not in [known.node for known in client.nodes().nodes]:
            pass
    prepare = PrepareSegment(
        pipeline="other", epoch=Epoch(generation=1, counter=1), stage=0, ring=(StageRef(node=node, start=0, stop=1),),
        model="none", graph=BLOB, blobs=(), blob_urls=(blob_url,), kv_layers=(), width_in=0, width_out=0,
        vocab_size=10, context_tokens=16, slots=1, chunk_tokens=2, wire_dtype="fp32", planned_bytes=0,
    )  # fmt: skip
    with MqttBus(as_orchestrator(broker.url), client_id="operator") as bus:
        bus.connect()
        bus.publish(NODE_COMMAND.format(node=node), encode(prepare), qos=1)
        assert bus.flush(DEADLINE_S)
    assert asked.wait(DEADLINE_S)


@contextmanager
def moving(broker: LocalBroker, proxy: MqttProxy) -> Iterator[None]:
    """Layers move in the middle of an answer; that rows are copied is never heard. Ends after the broker has."""
    proxy.drop(NODE_REPLY.filter(), when=lambda publish: b"reply.kv_copied" in publish.payload)

    def move() -> None:
        with suppress(ClientError), operator(broker.url) as client:
            client.apply(PlanConstraints(pins=TO), timeout_s=MOVE_S)

    mover = threading.Thread(target=move)
    with operator(broker.url, lease_s=None) as client:
        pieces = iter(client.ask(prompt="one two three", max_tokens=240))
        next(pieces)  # the others are not read, and it is not left
        mover.start()
        deadline_s = time.monotonic() + DEADLINE_S
        while client.status().moves.now is None:
            assert time.monotonic() < deadline_s
        yield
    mover.join()


def ended_after_s(processes: list[NodeProcess]) -> dict[str, float]:
    """Ask all at once; how long each takes, END_S and more for who does not end."""
    began_s = time.monotonic()
    for one in processes:
        one.process.send_signal(signal.SIGTERM)
    ended: dict[str, float] = {}
    for one in processes:
        with suppress(subprocess.TimeoutExpired):
            one.process.wait(max(0.0, began_s + 2 * END_S - time.monotonic()))
        ended[one.name] = time.monotonic() - began_s
    return ended


CASES = [
    pytest.param(
        how,
        later,
        id=f"{how.__name__}, {'reconnecting' if later else 'at once'}",
        marks=() if (how, later) == (killed, True) else pytest.mark.long,
    )
    for how in (frozen, killed, stopped, half_open)
    for later in (False, True)
]


@pytest.mark.parametrize(("breaks", "later"), CASES)
def test_all_end_in_time(
    breaks: Callable[[LocalBroker, MqttProxy], None],
    later: bool,
    mosquitto: LocalBroker,
    tiny_store: ModelStore,
    tmp_path: Path,
) -> None:
    serve = ("--model", "tiny", "--min-nodes", "2", "--context", "256", "--slots", "2")
    slow = ("--emulate-speed", "0.01", "--drain-timeout", "20")
    with (
        silent_server() as (blob_url, asked),
        MqttProxy(mosquitto.url) as proxy,
        running_nodes(["a", "b"], proxy.url, tmp_path, *slow) as nodes,
        running_orchestrator(proxy.url, tiny_store, tmp_path / "orchestrator", *serve) as orchestrator,
    ):
        with operator(mosquitto.url) as client:
            wait_until_serving(client)
            client.apply(PlanConstraints(objective="throughput", pins=FROM), timeout_s=60.0)
        with (
            moving(mosquitto, proxy),
            running_nodes(["loader"], proxy.url, tmp_path, "--memory-limit-mb", "64") as loaders,
        ):
            begin_to_load(mosquitto, "loader", blob_url, asked)
            with operator(mosquitto.url) as client:
                assert client.status().moves.now is not None
            breaks(mosquitto, proxy)
            if later:
                time.sleep(NOTICED_S)
            processes = [orchestrator, *nodes.values(), *loaders.values()]
            ended = ended_after_s(processes)
            codes = {one.name: one.process.poll() for one in processes}
    print("".join(f"\n{name:14} {took_s:6.2f} s, exit code {codes[name]}" for name, took_s in ended.items()))
    assert set(codes.values()) == {0}, "by themselves, not by force"
    assert max(ended.values()) <= END_S, ended
