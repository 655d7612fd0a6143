"""A whole installation for benchmarks: Mosquitto, nodes whose speed can be changed, an orchestrator, readers."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness import note

from broker.address import BrokerAddress
from broker.local_broker import LocalBroker
from orchestrator.client import AnswerFailed, Client, ControlRefused, NoOrchestrator
from orchestrator.commands.bench_report import make_prompt
from orchestrator.commands.demo_fleet import node_overhead_bytes
from orchestrator.fleet import profiles
from orchestrator.model.model import Model
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.service.config import ServiceConfig
from orchestrator.timing import Timing
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.contract import load
from schemas.messages import NodeBirth, PlanConstraints, WireDtype
from tests.support.nodes import NodeProcess, start_node
from tests.support.services import running_service

TIMEOUT_S = 120.0
CHUNK_TOKENS = 32
WORDS_PER_TOKEN = 0.75


def parts_bytes(model: Model, *, context_tokens: int, slots: int, wire: WireDtype) -> int:
    """Memory of the whole model with its KV caches on one node, the node's own overhead left out."""
    birth = NodeBirth(
        node="any", incarnation=0, protocol=PROTOCOL_VERSION, package_version=PACKAGE_VERSION, memory_bytes=0,
        overhead_bytes=0, storage_bytes=0, threads=1, speed_flops=1e9, hop_s=0.0,
    )  # fmt: skip
    problem = build_problem(
        model.manifest, [birth], context_tokens=context_tokens, slots=slots, wire_dtype=wire, chunk_tokens=CHUNK_TOKENS
    )
    return sum(run.count * problem.unit_memory_bytes(run) for run in problem.runs) + problem.workspace_bytes


class Reader(threading.Thread):
    """Somebody who asks again as soon as there is an answer; remembers when each token came."""

    def __init__(self, broker_url: str | BrokerAddress, prompt: str, max_tokens: int, *, once: bool = False) -> None:
        super().__init__(daemon=True)
        self.tokens: list[tuple[float, int]] = []
        """When (monotonic clock) and how many at once."""
        self.ids: list[int] = []
        """Of the newest answer."""
        self.failure = ""
        self._client = Client.connect(broker_url)
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._once = once
        self._ended = threading.Event()
        self._asked_s: list[float] = []
        """When each question was asked."""

    def run(self) -> None:
        try:
            with self._client:
                for turn in itertools.count():
                    # Rows of an earlier answer's prompt would be kept.
                    prompt = self._prompt if self._once else f"{turn}. {self._prompt}"
                    self._read(prompt)
                    if self._once or self._ended.is_set():
                        return
        except (AnswerFailed, NoOrchestrator) as error:
            self.failure = str(error)

    def _read(self, prompt: str) -> None:
        self._asked_s.append(time.monotonic())
        answer = self._client.ask(prompt=prompt, max_tokens=self._max_tokens)
        known = 0
        for _ in answer:
            now_s = time.monotonic()
            if len(answer.token_ids) > known:
                self.tokens.append((now_s, len(answer.token_ids) - known))
                known = len(answer.token_ids)
            if self._ended.is_set():
                answer.cancel()
        self.ids = list(answer.token_ids)

    def stop(self) -> None:
        """End the answer."""
        self._ended.set()

    def counted(self, begin_s: float, end_s: float) -> int:
        """Tokens that came between two times."""
        return sum(count for at_s, count in self.tokens if begin_s < at_s <= end_s)

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        """Longest time without a token in the middle of an answer, of all gaps that touch the time between."""
        times = [at_s for at_s, _ in self.tokens]
        gaps = [
            b - a
            for a, b in itertools.pairwise(times)
            if b > begin_s and a < end_s and not any(a < asked_s < b for asked_s in self._asked_s)
        ]
        return max(gaps, default=0.0)


@contextmanager
def reading(
    broker_url: str | BrokerAddress, streams: int, *, prompt_tokens: int, max_tokens: int
) -> Iterator[list[Reader]]:
    """Readers who are all past their first token."""
    words = max(4, round(WORDS_PER_TOKEN * prompt_tokens))
    readers = [Reader(broker_url, make_prompt(words, f"{stream}"), max_tokens) for stream in range(streams)]
    try:
        for reader in readers:
            reader.start()
        until("the first tokens", lambda: all(len(reader.tokens) > 1 or reader.failure for reader in readers))
        yield readers
    finally:
        for reader in readers:
            reader.stop()
        for reader in readers:
            reader.join(TIMEOUT_S)
    failures = [reader.failure for reader in readers if reader.failure]
    if failures:
        raise RuntimeError(failures[0])


@contextmanager
def computing(count: int) -> Iterator[None]:
    """So many processes that only compute, beside what is measured: a machine that has other things to do."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Installation:
    """Broker, nodes and an orchestrator, for as long as `installed` lasts."""

    def __init__(self, broker_url: str) -> None:
        self.broker_url = broker_url

    @contextmanager
    def operator(self) -> Iterator[Client]:
        """Somebody who gives the orchestrator a command."""
        # A connection of its own: nobody would keep one alive between two commands.
        with Client.connect(self.broker_url) as client:
            yield client

    def apply(self, **constraints: Any) -> None:
        """Have the best plan under constraints (JSON's way of saying them) in force."""
        with self.operator() as client:
            client.apply(load(PlanConstraints, constraints), timeout_s=TIMEOUT_S)

    def drain(self, node: str) -> None:
        """Empty a node."""
        with self.operator() as client:
            client.drain(node)

    def stages(self) -> list[tuple[str, int, int]]:
        """The plan in force: (node, start, stop) by stage."""
        try:
            with self.operator() as client:
                return [(one.node, one.start, one.stop) for one in client.plan().stages]
        except ControlRefused:
            return []

    def moves(self) -> int:
        """Live moves so far."""
        with self.operator() as client:
            return client.status().moves.done

    def is_idle(self) -> bool:
        """Has everything come that was on its way?"""
        with self.operator() as client:
            status = client.status()
        return status.state == "serving" and not status.progress

    def tell_plan(self, why: str) -> None:
        """For people who wait."""
        shown = ", ".join(f"{node} [{start}, {stop})" for node, start, stop in self.stages())
        note(f"  {why}: {shown}")


def until(what: str, holds: Any, timeout_s: float = TIMEOUT_S, every_s: float = 0.02) -> float:
    """Wait until something holds; the monotonic time at which it did.

    Raises:
        RuntimeError: it takes too long.
    """
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"waited {timeout_s:g} s for {what}")
        time.sleep(every_s)
    return time.monotonic()


def speed_file(folder: Path, node: str) -> Path:
    """Where a node's emulated speed is read from."""
    return folder / f"{node}.speed"


class Fleet:
    """Where nodes live, how large and how quick they are; starts them on demand."""

    def __init__(self, folder: Path, broker_url: str, memory_mb: int, speed: float) -> None:
        self.folder = folder
        self.broker_url = broker_url
        self._memory_mb = memory_mb
        self._speed = speed
        self.nodes: dict[str, NodeProcess] = {}

    def start(self, node: str, broker_url: str | None = None, *, watchdog_s: float = 20.0) -> NodeProcess:
        """Start a node, over another address of the broker if it is given."""
        speed_file(self.folder, node).write_text(f"{self._speed}\n")
        options = ("--memory-limit-mb", str(self._memory_mb), "--emulate-speed", f"@{speed_file(self.folder, node)}")
        url = broker_url or self.broker_url
        process = start_node(node, url, self.folder / node, *options, "--watchdog-s", f"{watchdog_s}")
        self.nodes[node] = process
        return process

    def set_speed(self, node: str, speed: float) -> None:
        """From the node's next heartbeat on."""
        file = speed_file(self.folder, node)
        file.with_suffix(".new").write_text(f"{speed}\n")
        file.with_suffix(".new").replace(file)

    def end(self) -> None:
        """End all nodes."""
        for node in self.nodes.values():
            node.end()


@contextmanager
def fleet_of(model: Model, names: Sequence[str], *, share: float, speed: float, **caches: Any) -> Iterator[Fleet]:
    """A broker and nodes, each with memory for ``share`` of the model and its caches beside its own overhead."""
    memory = node_overhead_bytes() + share * parts_bytes(model, **caches)
    with ExitStack() as stack:
        prefix = "linguabus-bench-"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=model.blobs_folder.parent)))
        broker = stack.enter_context(LocalBroker(kind="mosquitto"))
        fleet = Fleet(folder, broker.url, round(memory / 1e6), speed)
        stack.callback(fleet.end)
        for name in names:
            fleet.start(name)
        yield fleet


@contextmanager
def installed(
    fleet: Fleet, model: Model, *, balance: bool, context_tokens: int, slots: int, wire: WireDtype,
    profiled_s: float = profiles.PROBE_TIME_LIMIT_S, draft_tokens: int = 0,
) -> Iterator[Installation]:  # fmt: skip
    """An orchestrator that knows nothing yet, serving on nodes of the fleet, which measure themselves for so long."""
    with ExitStack() as stack:
        profiles.PROBE_TIME_LIMIT_S, before = profiled_s, profiles.PROBE_TIME_LIMIT_S
        stack.callback(setattr, profiles, "PROBE_TIME_LIMIT_S", before)
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-"))
        config = ServiceConfig(
            broker_url=fleet.broker_url, data_dir=Path(data), models_dir=model.blobs_folder.parent,
            model=model.manifest.name, min_nodes=len(fleet.nodes), context_tokens=context_tokens,
            slots=slots, wire_dtype=wire,
            chunk_tokens=CHUNK_TOKENS, draft_tokens=draft_tokens, pipelines=1, balance=balance,
            timing=Timing(settle_s=0.5, start_s=1.5),
        )  # fmt: skip
        stack.enter_context(running_service(config))
        running = Installation(fleet.broker_url)
        until("the first plan", lambda: bool(running.stages()), every_s=0.2)
        yield running
