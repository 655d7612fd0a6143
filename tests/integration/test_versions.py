"""A fleet with nodes of another version: of the same protocol they work, of another one people hear what to update."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from schemas import PROTOCOL_VERSION
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.services import patient_client, running_orchestrator, wait_until_serving

_NODE = """
import schemas, sys
schemas.PROTOCOL_VERSION, schemas.PACKAGE_VERSION = int(sys.argv.pop(1)), sys.argv.pop(1)
from edge_node.cli import main
main()
"""


@contextmanager
def node(name: str, protocol: int, version: str, broker: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A node that says so of itself."""
    command = [sys.executable, "-c", _NODE, str(protocol), version, "--broker", broker, "--name", name]
    process = subprocess.Popen(
        [*command, "--home", str(home / name), "--drain-timeout", "0", "--memory-limit-mb", "400"],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def test_versions_before_and_after(tiny_store: ModelStore, tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(LocalBroker())
        stack.enter_context(running_orchestrator(broker.url, tiny_store, tmp_path / "host"))
        client: Client = stack.enter_context(patient_client(broker.url))
        stack.enter_context(node("before", PROTOCOL_VERSION, "0.0.1", broker.url, tmp_path))
        wait_until_serving(client)
        assert list(client.ask(prompt="Hello", max_tokens=4))
        for name, protocol, said in (
            ("older", PROTOCOL_VERSION - 1, "on the node run pip install --upgrade"),
            (
                "newer",
                PROTOCOL_VERSION + 1,
                "on the fleet's host run pip install --upgrade 'linguabus[orch",
            ),
        ):
            with node(name, protocol, "9.9", broker.url, tmp_path) as process:
                assert process.stderr
                assert any(said in line for line in process.stderr)
                assert process.wait(DEADLINE_S) == 2
            (seen,) = (one for one in client.nodes().nodes if one.node == name)
            assert seen.state == "refused"
            assert said in seen.reason
        assert list(client.ask(prompt="Hello", max_tokens=4))
