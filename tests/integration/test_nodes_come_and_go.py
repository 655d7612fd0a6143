"""Nodes that come and go in the middle of an answer - started, asked to stop, drained: the text is the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.local_broker import LocalBroker
from orchestrator import cli
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from schemas.messages import PlanConstraints
from tests.support.bus_recorder import until
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.secured_broker import SecuredBroker
from tests.support.services import QUICK, apply, patient_client, running_service, wait_until_serving

NAMES = ("alfa", "bravo", "charlie")
PROMPT = "one two three four five six seven"
TOKENS = 80


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Slow ones, and bravo ten times as quick: no plan for throughput does without it, whatever else runs here."""
    bravo = ("--emulate-speed", "0.2", "--drain-timeout", str(DEADLINE_S))
    with running_nodes(NAMES, mosquitto.url, tmp_path, "--emulate-speed", "0.02", each={"bravo": bravo}) as running:
        yield running


@contextmanager
def serving(mosquitto: LocalBroker, store: ModelStore, folder: Path, min_nodes: int = len(NAMES)) -> Iterator[Client]:
    """An orchestrator."""
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=folder, models_dir=store.home, timing=QUICK, wire_dtype="fp32",
        context_tokens=256, slots=4, model="tiny", min_nodes=min_nodes,
    )  # fmt: skip
    with running_service(config), patient_client(mosquitto.url) as client:
        wait_until_serving(client)
        yield client


def use_all(client: Client) -> None:
    """A ring of all nodes with bravo in the middle."""
    ends = [["embed", "alfa"], ["head", "charlie"]]
    apply(client, objective="throughput", pins=ends)
    assert ring(client) == list(NAMES)


def ring(client: Client) -> list[str]:
    return [stage.node for stage in client.plan().stages]


def events(client: Client) -> dict[str, list[str]]:
    """Texts by kind."""
    found: dict[str, list[str]] = {}
    for event in client.past_events().events:
        found.setdefault(event.kind, []).append(event.text)
    return found


def ask(client: Client, **options: Any) -> Any:
    return client.ask(prompt=PROMPT, max_tokens=TOKENS, **options)


def test_sigterm_in_mid_answer_ends_with_the_same_text(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_store: ModelStore, tmp_path: Path
) -> None:
    with serving(mosquitto, tiny_store, tmp_path) as client:
        use_all(client)
        undisturbed = ask(client)
        expected = "".join(undisturbed)
        answer = ask(client, stats=True)
        pieces = iter(answer)
        begun = "".join(next(pieces) for _ in range(10))
        nodes["bravo"].process.send_signal(signal.SIGTERM)
        assert begun + "".join(pieces) == expected
        assert answer.token_ids == undisturbed.token_ids
        assert answer.end
        assert [timing.node for timing in answer.end.stages] == ["alfa", "charlie"]
        assert nodes["bravo"].process.wait(DEADLINE_S) == 0
        assert "it holds no layers: it ends" in nodes["bravo"].log()
        while "left" not in (told := events(client)):
            pass
        assert told["left"] == ["node bravo is gone: stopped"]
        assert told["drained"] == ["node bravo gives up its layers: it is leaving: asked to stop"]
        assert told["moved"]
        assert not told.keys() & {"lost", "broken", "given_up", "flagged"}


def test_a_node_that_joins_in_mid_answer_carries_layers(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path
) -> None:
    with Database(tmp_path / "state.sqlite3") as state:
        state.save_constraints("main", PlanConstraints(pins=(("embed", "alfa"), ("head", "charlie"))))
    with (
        running_nodes(["alfa", "charlie"], mosquitto.url, tmp_path, "--emulate-speed", "0.01"),
        serving(mosquitto, tiny_store, tmp_path, min_nodes=2) as client,
    ):
        assert ring(client) == ["alfa", "charlie"]
        answer = client.ask(prompt=PROMPT, max_tokens=2 * TOKENS)
        pieces = iter(answer)
        begun = "".join(next(pieces) for _ in range(2))
        with running_nodes(["bravo"], mosquitto.url, tmp_path):
            text = begun + "".join(pieces)
            assert "moved" in events(client), "while the answer went on"
            assert ring(client) == ["alfa", "bravo", "charlie"]
            assert text.startswith("".join(ask(client)))


def test_a_phone_with_a_low_battery_gets_no_layers(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = tmp_path / "bin" / "termux-battery-status"
    phone.parent.mkdir()
    phone.write_text('#!/bin/sh\necho \'{"percentage": 12, "status": "DISCHARGING", "temperature": 31.5}\'\n')
    phone.chmod(0o755)
    with running_nodes(["pi"], mosquitto.url, tmp_path, "--emulate-speed", "0.05"):
        monkeypatch.setenv("PATH", f"{phone.parent}:{os.environ['PATH']}")
        with (
            running_nodes(["phone"], mosquitto.url, tmp_path),
            serving(mosquitto, tiny_store, tmp_path, min_nodes=2) as client,
        ):
            until("a plan without the phone, though it is quicker", lambda: ring(client) == ["pi"])
            shown = next(node for node in client.nodes().nodes if node.node == "phone")
            assert (shown.battery_percent, shown.charging, shown.battery_temperature_c) == (12, False, 31.5)
            assert shown.drained == "its battery is at 12 %, not charging"
            assert shown.cost_factor == 2.0


def test_node_drain_empties_a_node_that_stays_and_may_come_back(
    mosquitto: SecuredBroker,
    nodes: dict[str, NodeProcess],
    tiny_store: ModelStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = ("--home", str(mosquitto.members.home))
    with serving(mosquitto, tiny_store, tmp_path) as client:
        use_all(client)
        expected = "".join(ask(client))
        answer = ask(client)
        pieces = iter(answer)
        begun = "".join(next(pieces) for _ in range(10))
        assert cli.run([*home, "node", "drain", "bravo"]) == 0
        assert capsys.readouterr().out.startswith("bravo holds no layers")
        assert ring(client) == ["alfa", "charlie"]
        assert begun + "".join(pieces) == expected
        bravo = next(node for node in client.overview().nodes if node.node == "bravo")
        assert (bravo.state, bravo.drained, bravo.stages) == ("online", "an operator drains it", ())
        assert bravo.rtt_ms
    with serving(mosquitto, tiny_store, tmp_path) as client:
        assert ring(client) == ["alfa", "charlie"], "remembered over a restart"
        assert cli.run([*home, "node", "drain", "bravo", "--undo"]) == 0
        use_all(client)
