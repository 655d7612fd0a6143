"""The lines of docs/mqtt.md, run with Mosquitto's clients against a fleet, and what they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.credential import FILE
from broker.mqtt import MqttBus
from orchestrator.service.incumbent import will_of
from tests.support.members import as_orchestrator
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import make_birth
from tests.support.scripted_service import ScriptedService
from tests.support.secured_broker import SecuredBroker

PAGE = (ROOT / "docs" / "mqtt.md").read_text("utf-8")
MARK = "<!-- run by tests/integration/test_mqtt_examples.py -->"
EXAMPLES = re.findall(rf"{MARK}\n```sh\n(.*?)```\n(?:\n```json\n(.*?)```\n)?", PAGE, re.DOTALL)
PIECES = ("stream.text", "stream.status", "stream.end")
END = "--- end of an example"


@pytest.fixture(scope="module")
def broker() -> Iterator[SecuredBroker]:
    with SecuredBroker() as started:
        yield started


@pytest.fixture
def home(broker: SecuredBroker, tmp_path: Path) -> Iterator[Path]:
    """The home of an operator of a fleet that answers."""

    def connected(name: str) -> MqttBus:
        bus = MqttBus(as_orchestrator(broker.url), client_id=name, will=will_of("main", name))
        bus.connect(DEADLINE_S)
        return bus

    operator = replace(broker.members.operator, broker_port=broker.port)
    operator.save(tmp_path / ".local" / "share" / "linguabus" / FILE)
    births = [make_birth(name, memory_mb=190) for name in "abc"]
    with ScriptedFleet(connected("nodes"), births):
        service = ScriptedService(connected("orchestrator"), tmp_path, TinyStore())
        try:
            yield tmp_path
        finally:
            service.end()


def kind(message: dict[str, str]) -> str:
    """How many tokens a piece has, and whether there was something to wait for, is not said."""
    return "piece" if message["type"] in PIECES else message["type"]


def test_each_example_prints_what_the_page_says(home: Path) -> None:
    script = f"\necho '{END}'\n".join(lines for lines, _ in EXAMPLES)
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    done = subprocess.run(
        ["bash", "-eu", "-c", script], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.split(f"{END}\n")
    assert len(printed) == len(EXAMPLES) > 6
    for (lines, shown), said in zip(EXAMPLES, printed, strict=True):
        expected = [json.loads(line) for line in shown.splitlines()]
        got = [json.loads(line) for line in said.splitlines()]
        assert [kind(one) for one in got] == [kind(one) for one in expected], lines
        for one, example in zip(got, expected, strict=True):
            assert one["type"] != example["type"] or one.keys() >= example.keys() - {"..."}
            assert all(one[name] == example[name] for name in ("code", "state") if name in example)
