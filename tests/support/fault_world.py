"""A whole installation of real processes whose parts can be killed, frozen and cut off, one by one.

A Mosquitto, an orchestrator, nodes of which none can hold the model alone, and clients. Each has a link of its own to
the broker, through a proxy; a recorder hears everything directly.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.child_process import ChildProcess, our_environment
from broker.credential import FILE
from broker.errors import BusError
from orchestrator.client import Client, ClientError
from orchestrator.commands.demo_fleet import node_overhead_bytes
from orchestrator.model.manifest import Manifest
from orchestrator.model.store import ModelStore
from orchestrator.replanning.problem_builder import build_problem
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.messages import NodeBirth
from tests.support.bus_recorder import BusRecorder, until
from tests.support.members import FleetUrl, credential_at
from tests.support.mqtt_proxy import MqttProxy
from tests.support.polling import DEADLINE_S
from tests.support.secured_broker import SecuredBroker
from tests.support.services import operator

ORCHESTRATOR = "orchestrator"
CONTEXT_TOKENS = 256
SLOTS = 4
NODE_SHARE = 0.45
"""Of the model and its KV caches: any three of four nodes can hold it, with room to move layers; two can't."""


def memory_limit_mb(manifest: Manifest, share: float = NODE_SHARE) -> int:
    """A node's limit, so that it can hold this share of the model."""
    overhead_bytes = node_overhead_bytes()
    birth = NodeBirth(
        node="any", incarnation=0, protocol=PROTOCOL_VERSION, package_version=PACKAGE_VERSION, memory_bytes=0,
        overhead_bytes=overhead_bytes, storage_bytes=0, threads=1, speed_flops=1e9, hop_s=0.0,
    )  # fmt: skip
    problem = build_problem(
        manifest, [birth], context_tokens=CONTEXT_TOKENS, slots=SLOTS, wire_dtype="fp32", chunk_tokens=32
    )
    return round((overhead_bytes + problem.workspace_bytes + share * problem.chain_bytes) / 1e6)


class Part:
    """A process of the world with its link to the broker."""

    def __init__(self, name: str, command: Sequence[str], proxy: MqttProxy, log: Path) -> None:
        self.name = name
        self.proxy = proxy
        self.log = log
        self._command = command
        self._process: ChildProcess | None = None
        self._frozen = False
        self._read_bytes = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def new_lines(self) -> list[str]:
        """What it has logged since this was last asked, over all its starts."""
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            data = log.read()
        self._read_bytes += len(data)
        return data.decode("utf-8", "replace").splitlines()

    def start(self) -> None:
        """Start it unless it runs."""
        if not self.running:
            self.end()
            with self.log.open("ab") as log:
                self._process = ChildProcess(self._command, output=log, environment=our_environment())

    def end(self, how: signal.Signals = signal.SIGKILL) -> int | None:
        """End it; its exit code, None where it did not run."""
        self.thaw()
        process, self._process = self._process, None
        return process.end(DEADLINE_S if how is signal.SIGTERM else 0.0, how) if process else None

    def freeze(self) -> None:
        """Stop it where it is, until `thaw`."""
        if self.running:
            os.kill(self.pid, signal.SIGSTOP)
            self._frozen = True

    def thaw(self) -> None:
        if self._frozen and self.running:
            os.kill(self.pid, signal.SIGCONT)
        self._frozen = False


class FaultWorld:
    """The installation, for as long as the context lasts; it is entered when questions are answered."""

    def __init__(
        self,
        folder: Path,
        store: ModelStore,
        model: str,
        *,
        nodes: int = 4,
        clients: int = 4,
        retains: bool = True,
        node_options: Sequence[str] = (),
        serve_options: Sequence[str] = (),
    ) -> None:
        """``retains``: the broker has its retained messages again after it was killed."""
        self.folder = folder
        self.node_names = tuple(f"node-{number}" for number in range(1, nodes + 1))
        self.client_names = tuple(f"client-{number}" for number in range(1, clients + 1))
        self.broker = SecuredBroker(folder=folder / "broker", remembers=retains)
        self.parts: dict[str, Part] = {}
        self.replaced: list[Part] = []
        """Orchestrators in whose place another one was started."""
        self.proxies: dict[str, MqttProxy] = {}
        self._model = model
        self.limit_mb = memory_limit_mb(store.open(model).manifest)
        self._node_options = node_options
        self._serve_options = serve_options
        home = folder / ORCHESTRATOR
        home.mkdir(parents=True)
        (home / "models").symlink_to(store.home.absolute())
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.broker)
            self.recorder = stack.enter_context(BusRecorder(self.broker.url))
            for name in (ORCHESTRATOR, *self.node_names, *self.client_names):
                self.proxies[name] = stack.enter_context(MqttProxy(self.broker.url))
            stack.callback(self._end_parts)
            serve = [
                "-m", "orchestrator.cli", "--home", str(self.folder / ORCHESTRATOR), "serve", "--model", self._model,
                "--min-nodes", "3", "--context", str(CONTEXT_TOKENS), "--slots", str(SLOTS), "--wire", "fp32",
                *self._serve_options,
            ]  # fmt: skip
            self._serve = serve
            self._add(ORCHESTRATOR, serve)
            for name in self.node_names:
                node = [
                    "-m", "edge_node", "--name", name, "--home", str(self.folder / name), "-v", "--drain-timeout", "0",
                    "--memory-limit-mb", str(self.limit_mb), *self._node_options,
                ]  # fmt: skip
                self._add(name, node)
            self.wait_until_serving()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _add(self, name: str, arguments: Sequence[str]) -> None:
        url, home = self.proxies[name].url, self.folder / name
        assert isinstance(url, FleetUrl)
        if name == ORCHESTRATOR:
            url.members.serve_from(home, url.port)
        else:
            credential_at(url, name, "node").save(home / FILE)
        command = [sys.executable, *arguments]
        number = f"-{len(self.replaced) + 1}" if name == ORCHESTRATOR and self.replaced else ""
        self.parts[name] = Part(name, command, self.proxies[name], self.folder / f"{name}{number}.log")
        self.parts[name].start()

    def _end_parts(self) -> None:
        for part in (*self.parts.values(), *self.replaced):
            part.end()

    def replace_orchestrator(self) -> Part:
        """Start another orchestrator from the same home, over a link of its own, and wait until it serves, or has ended
        because it can't; returns the one before it."""
        before = self.parts[ORCHESTRATOR]
        self.replaced.append(before)
        self.proxies[ORCHESTRATOR] = self._stack.enter_context(MqttProxy(self.broker.url))
        self._add(ORCHESTRATOR, [*self._serve, "--take-over"])
        serves = self.parts[ORCHESTRATOR]
        until(
            "the orchestrator that takes over",
            lambda: b"model parts: " in serves.log.read_bytes() or not serves.running,
        )
        return before

    def restart_ended(self, away: Collection[str]) -> None:
        """Start again what has ended, since the broker was away when it started, as a service manager does."""
        for name in (*self.node_names, ORCHESTRATOR):
            if name not in away and not self.parts[name].running:
                self.parts[name].start()

    def forget(self, part: Part) -> None:
        """Let go of what a replaced orchestrator leaves behind: its link, and the pipes to its process."""
        part.end()
        part.proxy.close()

    @property
    def addresses(self) -> list[str]:
        """Where the clients find the broker, each over a link of its own."""
        return [self.proxies[name].url for name in self.client_names]

    @contextmanager
    def operator(self) -> Iterator[Client]:
        """A client with nothing between it and the broker, for commands."""
        with operator(self.broker.url, timeout_s=DEADLINE_S) as client:
            yield client

    def repair(self) -> None:
        """End all faults: whatever is dead, frozen or cut off is so no longer."""
        if not self.broker.running:
            self.broker.restart()
        for proxy in self.proxies.values():
            proxy.refuse_new = False
            proxy.speak()
        for part in self.parts.values():
            part.thaw()
            part.start()

    def is_whole(self) -> bool:
        """Is every node there, as far as the broker knows?"""
        return self.recorder.online() >= set(self.node_names)

    def wait_until_serving(self) -> None:
        """Return when all nodes are there and a plan is in force."""

        def is_whole() -> bool:
            self.restart_ended(())
            return self.is_whole()

        until("all nodes", is_whole)
        self._until_answer("a plan in force", lambda client: client.status().state == "serving")

    def wait_until_idle(self) -> None:
        """Return when all nodes are there, a plan is in force, and nobody holds a request."""
        self.wait_until_serving()
        self._until_answer("no open requests", lambda client: self._is_idle(client))
        self.recorder.wait_for_free_slots(self.node_names)

    @staticmethod
    def _is_idle(client: Client) -> bool:
        status = client.status()
        return status.open_requests == 0 and status.queued_requests == 0

    def _until_answer(self, what: str, holds: Callable[[Client], bool]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while True:
            self.restart_ended(())
            with suppress(ClientError, BusError), self.operator() as client:
                while not holds(client):
                    assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain for {what}"
                    time.sleep(0.1)
                return
            assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s in vain for {what}: nobody answers"

    def pids(self) -> Mapping[str, int]:
        """Of all processes that run, by name."""
        running = {name: part.pid for name, part in self.parts.items() if part.running}
        return running | ({"broker": self.broker.pid} if self.broker.running else {})
