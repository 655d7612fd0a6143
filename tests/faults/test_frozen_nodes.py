"""Nodes that are frozen in mid-answer: replaced where others can take over, else awaited; the text is the same."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from schemas.messages import PlanConstraints
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.services import patient_client, running_service, wait_until_serving

PROMPT = "one two three four five six seven"
TOKENS = 60
ENDS = (("embed", "a"), ("head", "c"))
FROZEN = "b"


@contextmanager
def fleet(
    mosquitto: LocalBroker, store: ModelStore, folder: Path, names: str, **constraints: Any
) -> Iterator[tuple[Client, dict[str, NodeProcess]]]:
    """Nodes of which the second is in the middle of every plan that may use it."""
    with Database(folder / "state.sqlite3") as state:
        state.save_constraints("main", PlanConstraints(objective="throughput", **constraints))
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=folder, models_dir=store.home, model="tiny",
        min_nodes=len(names), context_tokens=128, slots=2, wire_dtype="fp32",
    )  # fmt: skip
    quick = {FROZEN: ("--emulate-speed", "0.5")}
    with (
        running_nodes(names, mosquitto.url, folder, "--emulate-speed", "0.05", each=quick) as nodes,
        running_service(config),
        patient_client(mosquitto.url) as client,
    ):
        wait_until_serving(client)
        yield client, nodes


def ask(client: Client, meanwhile: Any = lambda: None) -> list[int]:
    """The answer's tokens; ``meanwhile`` is done when it has begun."""
    answer = client.ask(prompt=PROMPT, max_tokens=TOKENS)
    for index, _ in enumerate(answer):
        if index == 4:
            meanwhile()
    assert len(answer.token_ids) == TOKENS
    return list(answer.token_ids)


def texts(client: Client, kind: str) -> list[str]:
    return [event.text for event in client.past_events().events if event.kind == kind]


def test_a_frozen_node_is_replaced(mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path) -> None:
    with fleet(mosquitto, tiny_store, tmp_path, "abc", pins=ENDS) as (client, nodes):
        expected = ask(client)
        assert [stage.node for stage in client.plan().stages] == ["a", FROZEN, "c"]
        try:
            found = ask(client, lambda: os.kill(nodes[FROZEN].pid, signal.SIGSTOP))
            assert found == expected
            assert FROZEN not in {stage.node for stage in client.plan().stages}
        finally:
            os.kill(nodes[FROZEN].pid, signal.SIGCONT)


def test_nodes_that_nobody_can_replace_go_on_with_what_they_knew(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path
) -> None:
    """First, middle and last of the ring."""
    pins = (*ENDS, ("1-2", FROZEN))
    with fleet(mosquitto, tiny_store, tmp_path, "abc", pins=pins) as (client, nodes):
        expected, epoch = ask(client), client.plan().epoch
        for times, name in enumerate(nodes, 1):
            pid = nodes[name].pid
            waker = threading.Thread(target=wake, args=(mosquitto.url, pid, times))

            def freeze(pid: int = pid, waker: threading.Thread = waker) -> None:
                os.kill(pid, signal.SIGSTOP)
                waker.start()

            assert ask(client, freeze) == expected
            waker.join()
            assert texts(client, "returned")[-1] == f"{name} is back in time"
        assert client.plan().epoch == epoch


def wake(broker_url: str, pid: int, times: int) -> None:
    """Let a process go on once so many nodes have been missed."""
    with patient_client(broker_url) as watcher:
        while len(texts(watcher, "lost")) < times:
            pass
    os.kill(pid, signal.SIGCONT)
