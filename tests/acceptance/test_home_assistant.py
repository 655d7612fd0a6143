"""Home Assistant's own code takes every entity that a fleet announces: the schemas of its MQTT integration.

On Python 3.11 the newest that installs is 2024.3.3, which does not know device-based discovery yet: it reads each
entity alone, as that was announced before. The rules of the device around them are checked in
`tests/unit/orchestrator/operator_api/test_home_assistant.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.settings import default_cache
from tests.support.debian_packages import made_once
from tests.unit.orchestrator.operator_api.test_home_assistant import DOCUMENTS

VERSION = "2024.3.3" if sys.version_info < (3, 12) else "2025.1.4"
CHECK = """
import importlib, json, sys
for entity in json.load(sys.stdin):
    module = importlib.import_module("homeassistant.components.mqtt." + entity.pop("platform"))
    module.DISCOVERY_SCHEMA(entity)
    print("valid")
"""


def _install(folder: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-qq", "--target", str(folder), f"homeassistant=={VERSION}"]
    subprocess.run(install, check=True)


def _taken(entities: list[dict[str, Any]]) -> int:
    """How many of these Home Assistant takes, until one that it does not."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = made_once(default_cache() / "home-assistant" / f"{VERSION}-python{python}", _install)
    done = subprocess.run(
        [sys.executable, "-S", "-c", CHECK],  # its own libraries alone
        env={**os.environ, "PYTHONPATH": str(folder)},
        input=json.dumps(entities),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or "Invalid" in done.stderr, done.stderr
    return done.stdout.count("valid")


def _entities() -> list[dict[str, Any]]:
    """Each entity with what is said of all of its device."""
    return [
        {"device": document["device"], "qos": document["qos"], **part}
        for document in DOCUMENTS.values()
        for part in document["components"].values()
    ]


@pytest.mark.long
def test_home_assistant_takes_every_entity() -> None:
    entities = _entities()
    assert _taken(entities) == len(entities) > 20


@pytest.mark.long
def test_home_assistant_would_not_take_anything() -> None:
    wrong = {**_entities()[0], "device_class": "nonsense"}
    assert _taken([wrong]) == 0
