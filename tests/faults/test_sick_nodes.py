"""Nodes that are there and of no use: they are set apart by name and with the reason, and readers notice nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.timing import Timing
from schemas.messages import PlanConstraints
from tests.support.bus_recorder import until
from tests.support.nodes import NodeProcess, running_nodes, start_node
from tests.support.services import patient_client, running_service, wait_until_serving
from tests.support.sick_node import CHUNK_S, CHUNK_TOKENS

PROMPT = "The capital of France"
TOKENS = 40
SICK = "sick"
ENDS = PlanConstraints(objective="throughput", pins=(("embed", "a"), ("head", "b")))


@contextmanager
def fleet(mosquitto: LocalBroker, store: ModelStore, folder: Path, kind: str) -> Iterator[Client]:
    """Two nodes with the ends, and a sick one that is so much quicker that plans have it in the middle."""
    with Database(folder / "state.sqlite3") as state:
        state.save_constraints("main", ENDS)
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=folder, models_dir=store.home, model="tiny",
        min_nodes=3, context_tokens=128, slots=2, wire_dtype="fp32", chunk_tokens=CHUNK_TOKENS,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(running_nodes("ab", mosquitto.url, folder, "--emulate-speed", "0.05"))
        module = ("tests.support.sick_node", kind)
        sick = start_node(SICK, mosquitto.url, folder / SICK, "--emulate-speed", "0.7", module=module)
        stack.callback(sick.end)
        stack.enter_context(running_service(config))
        client = stack.enter_context(patient_client(mosquitto.url))
        wait_until_serving(client)
        yield client


def ring(client: Client) -> list[str]:
    return [stage.node for stage in client.plan().stages]


def ask(client: Client) -> list[int]:
    answer = client.ask(prompt=PROMPT, max_tokens=TOKENS)
    for _ in answer:
        pass
    assert len(answer.token_ids) == TOKENS
    return list(answer.token_ids)


def await_set_apart(client: Client) -> str:
    """Wait until the sick node was set apart, which may be over again; what was told of it."""

    def told() -> list[str]:
        return [one.text for one in client.past_events().events if (one.node, one.kind) == (SICK, "set_apart")]

    until("the sick node is set apart", lambda: bool(told()))
    reasons = [view.drained for view in client.nodes().nodes if view.node == SICK and view.drained]
    return " ".join((*told(), *reasons))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("computes_nan", "it computed is NaN or infinite (2 steps failed)"),
        ("sends_nan", "it sent b what is not finite"),
    ],
)
def test_requests_go_on_without_a_node_whose_results_are_no_numbers(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path, kind: str, reason: str
) -> None:
    with fleet(mosquitto, tiny_store, tmp_path, kind) as client:
        assert ring(client) == ["a", SICK, "b"]
        token_ids = ask(client)
        assert reason in await_set_apart(client)
        wait_until_serving(client)
        assert SICK not in ring(client)
        assert ask(client) == token_ids


def test_a_node_that_crashes_whenever_it_loads_is_left_out(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path
) -> None:
    """Somebody starts it again each time. The others serve, and `nodes` says what is wrong with it."""
    stop = threading.Event()
    starts: list[NodeProcess] = []

    def keep_running() -> None:
        while not stop.is_set():
            node = start_node(
                SICK, mosquitto.url, tmp_path / SICK, module=("tests.support.sick_node", "crashes_on_load")
            )
            starts.append(node)
            while node.process.poll() is None and not stop.is_set():
                stop.wait(0.1)
            node.end()

    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path, models_dir=tiny_store.home, model="tiny",
        min_nodes=2, context_tokens=128, slots=2, timing=Timing(start_s=0.5, settle_s=0.2),
    )  # fmt: skip
    keeper = threading.Thread(target=keep_running)
    with (
        running_nodes("a", mosquitto.url, tmp_path, "--emulate-speed", "0.05"),
        running_service(config),
        patient_client(mosquitto.url) as client,
    ):
        keeper.start()
        try:
            reason = await_set_apart(client)
            assert reason.endswith("its process ended 2 times while it loaded a segment")
            wait_until_serving(client)
            assert ring(client) == ["a"]
            assert len(ask(client)) == TOKENS
            crashed = [node for node in starts if node.process.returncode == -signal.SIGSEGV]
            assert 2 <= len(crashed) <= 4
        finally:
            stop.set()
            keeper.join()


def test_a_node_that_computes_for_seconds_is_not_missed(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path
) -> None:
    """It says beforehand that it will be silent."""
    with fleet(mosquitto, tiny_store, tmp_path, "computes_for_long") as client:
        answer = client.ask(prompt=PROMPT * 2, max_tokens=3, stats=True)
        for _ in answer:
            pass
        assert answer.end
        assert max(stage.prefill_s for stage in answer.end.stages) > CHUNK_S > 2 * Timing().silence_s
        assert "lost" not in {event.kind for event in client.past_events().events}
        assert SICK in ring(client)
