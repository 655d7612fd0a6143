"""What several modules share: a home with an added model, slow nodes, a gateway in front of scripted ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.local_broker import LocalBroker
from tests.support.added_model import CLI, AddedModel
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.recorder import Recorder
from tests.support.tiny_models import make_checkpoint

if TYPE_CHECKING:
    from tests.support.gateway_world import GatewayWorld


@pytest.fixture(scope="session")
def added_model(tmp_path_factory: pytest.TempPathFactory) -> AddedModel:
    """Converted by the command, which strace watches."""
    folder = tmp_path_factory.mktemp("added")
    checkpoint = make_checkpoint("llama", folder / "checkpoint")
    add = [*CLI, "model", "add", str(checkpoint), "--name", "tiny", "--precision", "fp32", "--profile", "exact"]
    if sys.platform != "linux":
        subprocess.run([*CLI, "--home", str(folder / "home"), *add[3:]], check=True)
        return AddedModel(folder / "home", None)
    recorder = Recorder(folder / "recorded")
    code, _, errors = recorder.run(*add, timeout_s=2 * DEADLINE_S)  # torch is loaded three times
    assert code == 0, errors
    return AddedModel(recorder.home / ".local" / "share" / "linguabus", recorder)


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Three slow ones: answers last longer than moves."""
    with running_nodes(("alfa", "bravo", "charlie"), mosquitto.url, tmp_path, "--emulate-speed", "0.02") as running:
        yield running


@pytest.fixture(scope="module")
def gateway_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayWorld]:
    """An orchestrator with scripted nodes, for gateways and clients of a module's own."""
    from tests.support import gateway_world as worlds  # it needs what the orchestrator needs

    with worlds.gateway_world(tmp_path_factory.mktemp("gateway")) as world:
        yield world


@pytest.fixture(scope="module")
def root(gateway_world: GatewayWorld) -> Iterator[str]:
    """The root of a gateway that soon says when nothing comes."""
    with gateway_world.gateway(quiet_s=0.1) as root:
        yield root


@pytest.fixture
def endless(gateway_world: GatewayWorld) -> Iterator[None]:
    """Answers stop after four tokens, and stay open."""
    gateway_world.fleet.most_tokens = 4
    yield
    gateway_world.fleet.most_tokens = None
    gateway_world.until_nothing_is_open()
