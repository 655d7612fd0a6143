"""Mosquitto restarts again and again under load: nobody is left turning, and everybody still ends when asked to.

``pytest -m long -s tests/acceptance/test_broker_restarts.py`` prints the figures.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from broker.errors import BusError
from broker.local_broker import LocalBroker
from orchestrator.client import ClientError
from orchestrator.model.store import ModelStore
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.services import operator, running_orchestrator, wait_until_serving

RESTARTS = 20
STREAMS = 3
BUSY_PERCENT = 20.0
IDLE_S = 5.0
END_S = 5.0
NAMES = ("alfa", "bravo", "charlie")


class Load:
    """Clients that ask one question after the other, whatever becomes of the answers."""

    def __init__(self, broker_url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self.answered = threading.Condition()
        self._url = broker_url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(STREAMS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self) -> None:
        while not self._over.is_set():
            try:
                client = operator(self._url)
                client._silence_s = 1.0
                with client:
                    while not self._over.is_set():
                        for _ in client.ask(prompt="one two three four", max_tokens=40):
                            if self._over.is_set():
                                return
                        self._count("answered")
            except (ClientError, BusError) as error:
                self._count(type(error).__name__)

    def _count(self, outcome: str) -> None:
        with self.answered:
            self.outcomes[outcome] += 1
            self.answered.notify_all()

    def wait_for_answers(self, count: int, timeout_s: float = 60.0) -> None:
        """Until so many more answers are complete."""
        with self.answered:
            wanted = self.outcomes["answered"] + count
            complete = self.answered.wait_for(lambda: self.outcomes["answered"] >= wanted, timeout_s)
        assert complete, f"no {count} answers in {timeout_s:g} s: {dict(self.outcomes)}"


def busy_percent(processes: list[NodeProcess]) -> dict[str, float]:
    """CPU of each while it should have nothing to do, in per cent of a core."""
    watched = {process.name: psutil.Process(process.pid) for process in processes}
    before = {name: sum(process.cpu_times()[:2]) for name, process in watched.items()}
    time.sleep(IDLE_S)
    return {name: 100 * (sum(process.cpu_times()[:2]) - before[name]) / IDLE_S for name, process in watched.items()}


def end_s(process: NodeProcess) -> float:
    """How long it takes to end after SIGTERM."""
    started_s = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    process.process.wait(60)
    return time.monotonic() - started_s


@pytest.mark.long
def test_twenty_restarts_of_the_broker_under_load(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path
) -> None:
    serve = ("--model", "tiny", "--min-nodes", "3", "--context", "128", "--slots", str(STREAMS))
    with (
        running_nodes(NAMES, mosquitto.url, tmp_path, "--memory-limit-mb", "4096") as nodes,
        running_orchestrator(mosquitto.url, tiny_store, tmp_path / "orchestrator", *serve) as orchestrator,
    ):
        processes = [orchestrator, *nodes.values()]
        with operator(mosquitto.url) as client:
            wait_until_serving(client)
        with Load(mosquitto.url) as load:
            for number in range(RESTARTS):
                load.wait_for_answers(STREAMS)
                mosquitto.restart(abruptly=bool(number % 2))
            load.wait_for_answers(STREAMS)
        busy = busy_percent(processes)
        ended = {process.name: end_s(process) for process in processes}
    codes = {process.name: process.process.returncode for process in processes}
    print(f"\n{RESTARTS} restarts, TERM and KILL in turn; answers: {dict(load.outcomes)}")
    print(f"{'process':14} {'CPU idle, %':>12} {'SIGTERM to end, s':>18} {'exit code':>10}")
    for name in codes:
        print(f"{name:14} {busy[name]:12.1f} {ended[name]:18.2f} {codes[name]:10}")
    assert max(busy.values()) <= BUSY_PERCENT
    assert max(ended.values()) <= END_S
    assert set(codes.values()) == {0}
