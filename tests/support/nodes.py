"""Real node processes for tests and benchmarks: started, watched and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.credential import FILE
from tests.support.members import FleetUrl, credential_at
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT


@dataclass
class NodeProcess:
    """One ``python -m edge_node`` process, or another one of a fleet."""

    name: str
    home: Path
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit code; what does not listen is killed."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


def start_node(
    name: str,
    broker_url: str | None,
    home: Path,
    *options: str,
    python: str = sys.executable,
    cwd: Path = ROOT,
    module: Sequence[str] = ("edge_node",),
) -> NodeProcess:
    """Start a node that ends at once when asked to; ``options`` are further command-line options.

    Without a broker it is a member, whose credential is in its home. It becomes one for a fleet's broker.

    ``module``: what to run in place of a node, and its arguments before a node's options.
    """
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / "node.log"
    if isinstance(broker_url, FleetUrl):
        credential_at(broker_url, name, "node").save(home / FILE)
        broker_url = None
    broker = [] if broker_url is None else ["--broker", broker_url]
    command = [
        python, "-m", *module, *broker, "--name", name, "--home", str(home), "-v", "--drain-timeout", "0", *options,
    ]  # fmt: skip
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env=os.environ)
    return NodeProcess(name, home, process, log_path)


@contextmanager
def running_node(
    name: str, command: Sequence[str | Path], home: Path, *, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A node that another command starts: it goes on in the block, and ends well."""
    log_path = home / "log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env=env)
    node = NodeProcess(name, home, process, log_path)
    try:
        yield
    finally:
        code = node.end()
    assert code == 0, node.log()
    assert "Traceback" not in node.log()


@contextmanager
def running_nodes(
    names: Sequence[str],
    broker_url: str | None,
    home: Path,
    *options: str,
    each: dict[str, Sequence[str]] | None = None,
) -> Iterator[dict[str, NodeProcess]]:
    """Nodes by name, ended at the end; ``each`` gives further options by name."""
    nodes: dict[str, NodeProcess] = {}
    if isinstance(broker_url, FleetUrl):
        broker_url.members.enrol(names, "node")  # all at once
    try:
        for name in names:
            extra = (each or {}).get(name, ())
            nodes[name] = start_node(name, broker_url, home / name, *options, *extra)
        yield nodes
    finally:
        for node in nodes.values():
            node.end()
