"""The bus keeps its contract with the oldest and the newest paho-mqtt that may be installed: methods that paho keeps
to itself are overridden (`broker/paho_client.py`)."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.repository import ROOT

TESTS = ("tests/contract", "tests/unit/broker")
NAME = "paho-mqtt"


def allowed() -> str:
    """The versions that pyproject.toml allows: ">=2.1,<3"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (found,) = (one.removeprefix(NAME) for one in project["dependencies"] if one.startswith(NAME))
    return str(found)


@pytest.mark.long
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_the_contract_with(which: str, tmp_path: Path) -> None:
    least = allowed().partition(",")[0].removeprefix(">=")
    wanted = f"{NAME}=={least}.0" if which == "oldest" else f"{NAME}{allowed()}"
    install = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(tmp_path), wanted]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    show = "import paho.mqtt; print(paho.mqtt.__version__, paho.mqtt.__file__)"
    version = subprocess.run(
        [sys.executable, "-c", show], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in version.stdout
    print(f"\n{which}: {version.stdout.strip()}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3_000:]
    print(done.stdout.splitlines()[-1])
