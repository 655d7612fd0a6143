"""The demo: a broker, an orchestrator and some nodes on this machine, each too small for the whole model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from broker.local_broker import LocalBroker
from orchestrator.client import Client, NoOrchestrator
from orchestrator.commands.parts import PAGE, POLL_S, START_TIMEOUT_S, PartFailed, Parts
from orchestrator.model.lock import owned_folder
from orchestrator.model.manifest import Manifest
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.text.status_text import status_text
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.messages import NodeBirth, StatusReply

CONTEXT_TOKENS = 512
SLOTS = 2
CHUNK_TOKENS = 128

SPARE = 1.08
"""The nodes together may use this much more than the model split over them needs."""
UNEVEN = (1.0, 0.9, 1.1)
"""Relative size of the nodes, over and over: real ones are not alike."""

OVERHEAD_MARGIN_BYTES = 5_000_000
"""For what a node adds when it connects."""

STOP_TIMEOUT_S = 2.5
"""For all parts together."""
Say = Callable[[str], None]

_OVERHEAD_SCRIPT = (
    "import edge_node.service; from edge_node.telemetry.device import resident_bytes; print(resident_bytes())"
)


@dataclass(frozen=True)
class MemoryPlan:
    """What one device alone would need for the model, and what each node is given."""

    alone_bytes: int
    limits_mb: tuple[int, ...]
    """As ``--memory-limit-mb`` counts, 10^6 bytes each."""


def node_overhead_bytes() -> int:
    """Bytes that a node takes on this machine before it has loaded anything: Python, NumPy, ONNX Runtime."""
    command = [sys.executable, "-c", _OVERHEAD_SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise PartFailed(f"a node can't start here: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return int(done.stdout) + OVERHEAD_MARGIN_BYTES


def memory_plan(manifest: Manifest, nodes: int, overhead_bytes: int) -> MemoryPlan:
    """Limits under which ``nodes`` nodes can hold the model together, and none alone (for two nodes or more)."""
    birth = NodeBirth(
        node="any", incarnation=0, protocol=PROTOCOL_VERSION, package_version=PACKAGE_VERSION, memory_bytes=0,
        overhead_bytes=overhead_bytes, storage_bytes=0, threads=1, speed_flops=1e9, hop_s=0.0,
    )  # fmt: skip
    problem = build_problem(
        manifest, [birth], context_tokens=CONTEXT_TOKENS, slots=SLOTS, wire_dtype="fp32", chunk_tokens=CHUNK_TOKENS
    )
    alone_bytes = overhead_bytes + problem.chain_bytes + problem.workspace_bytes
    shared_bytes = SPARE * (problem.chain_bytes + nodes * problem.workspace_bytes)
    sizes = [UNEVEN[i % len(UNEVEN)] for i in range(nodes)]
    limits = (overhead_bytes + shared_bytes * size / sum(sizes) for size in sizes)
    return MemoryPlan(alone_bytes, tuple(round(limit / 1e6) for limit in limits))


class Fleet:
    """All processes of the demo. A context manager; leaving it ends all, the broker last, whatever happened.

    They end, too, when the process that started them is killed.
    """

    def __init__(self, folder: Path, home: Path, model: str, limits_mb: tuple[int, ...]) -> None:
        """Prepare a fleet. ``home`` has the models; logs, downloads and the orchestrator's state go to ``folder``: what
        somebody wanted of an earlier demo's plans does not count in this one."""
        self._folder = folder
        self._home = home
        self._model = model
        self._limits_mb = dict(zip((f"node-{i}" for i in range(1, len(limits_mb) + 1)), limits_mb, strict=True))
        self._parts = Parts(folder)
        self._stack = contextlib.ExitStack()
        self.broker = LocalBroker(folder=folder / "broker")

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        return tuple(self._limits_mb)

    def __enter__(self) -> Fleet:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.broker)
            stack.callback(self._parts.end, STOP_TIMEOUT_S)
            state = self._folder / "orchestrator"
            state.mkdir()
            (state / "models").symlink_to(self._home.absolute() / "models")
            serve = [
                "-m", "orchestrator.cli", "--home", str(state), "serve", "--broker", self.broker.url,
                "--model", self._model, "--min-nodes", str(len(self._limits_mb)), "--context", str(CONTEXT_TOKENS),
                "--slots", str(SLOTS),
            ]  # fmt: skip
            self._parts.start("orchestrator", serve)
            for name, limit_mb in self._limits_mb.items():
                node = [
                    "-m", "edge_node", "--broker", self.broker.url, "--name", name, "--home", str(self._folder / name),
                    "--memory-limit-mb", str(limit_mb), "--drain-timeout", "0",
                ]  # fmt: skip
                self._parts.start(name, node)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raise PartFailed if any process ended."""
        self._parts.check()
        if not self.broker.running:
            raise PartFailed("the broker ended")

    def open_page(self) -> str:
        """Start the way in by HTTP, and return the address of its page once it is there.

        Raises:
            PartFailed: something ended, or it takes too long.
        """
        home = str(self._folder / "orchestrator")
        command = ["-m", "orchestrator.cli", "--home", home, "--broker", self.broker.url, "api", "--port", "0"]
        page = self._parts.start("page", command)
        return self._parts.wait_for(page, PAGE, self.check)[1]

    def wait_until_serving(self, client: Client, say: Say) -> None:
        """Wait until questions can be asked; say what happens until then.

        Raises:
            PartFailed: something ended, or it takes too long.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        said = ""
        while True:
            self.check()
            with contextlib.suppress(NoOrchestrator):
                status = client.status(timeout_s=1.0)
                line = self._progress(status)
                if line != said:
                    said = line
                    say(line)
                if status.state == "serving" and status.nodes == len(self._limits_mb):
                    return
            if time.monotonic() > deadline_s:
                raise PartFailed(f"not ready after {START_TIMEOUT_S:.0f} s; the last news were: {said or 'none'}")
            time.sleep(POLL_S)

    def _progress(self, status: StatusReply) -> str:
        return f"{status.nodes} of {len(self._limits_mb)} nodes, {status_text(status)}"

    def blob_bytes(self, node: str) -> int:
        """Bytes of model parts that a node has on disk."""
        return sum(file.stat().st_size for file in (self._folder / node / "blobs").rglob("*") if file.is_file())


@contextlib.contextmanager
def running_fleet(home: Path, model: str, limits_mb: tuple[int, ...]) -> Iterator[Fleet]:
    """A fleet in a folder below ``home``, where the model had room, too; temporary folders may be small, or missing."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    with (
        owned_folder(home / "running", "demo-", home / "running.lock") as folder,
        Fleet(folder, home, model, limits_mb) as fleet,
    ):
        yield fleet
