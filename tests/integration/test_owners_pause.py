"""The owner of a device pauses its node: others take over, or what is asked waits, and the text is the same."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.local_broker import LocalBroker
from edge_node.cli import node
from edge_node.config import NodeConfig
from edge_node.service import NodeService
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from tests.support.members import as_member
from tests.support.nodes import running_nodes, start_node
from tests.support.polling import DEADLINE_S
from tests.support.services import QUICK, apply, patient_client, running_service, wait_until_serving

PROMPT = "one two three four five six seven"
TOKENS = 60
WHY = "it rests: paused by its owner"


def owner(home: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of ``linguabus-node WORDS`` on a device; without the start of a process it is in time."""
    done = CliRunner().invoke(node, [*words, "--home", str(home)])
    assert done.stderr == ""
    return done.exit_code, done.stdout


def state(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(owner(home, "status", "--json")[1])
    return found


@contextmanager
def serving(mosquitto: LocalBroker, store: ModelStore, folder: Path, min_nodes: int) -> Iterator[Client]:
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=folder, models_dir=store.home, timing=QUICK, wire_dtype="fp32",
        context_tokens=256, slots=4, model="tiny", min_nodes=min_nodes,
    )  # fmt: skip
    with running_service(config), patient_client(mosquitto.url) as client:
        yield client


def kinds(client: Client) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in client.past_events().events:
        found.setdefault(event.kind, []).append(event.text)
    return found


def test_paused_in_mid_answer_others_take_over(mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path) -> None:
    phone = ("--emulate-speed", "0.2", "--drain-timeout", str(DEADLINE_S))
    with (
        running_nodes(["pi", "phone"], mosquitto.url, tmp_path, "--emulate-speed", "0.01", each={"phone": phone}),
        serving(mosquitto, tiny_store, tmp_path, 2) as client,
    ):
        wait_until_serving(client)
        apply(client, pins=[["embed", "pi"]])
        assert [stage.node for stage in client.plan().stages] == ["pi", "phone"], "the quicker one has the rest"
        expected = "".join(client.ask(prompt=PROMPT, max_tokens=2 * TOKENS))
        answer = client.ask(prompt=PROMPT, max_tokens=2 * TOKENS, stats=True)
        pieces = iter(answer)
        begun = "".join(next(pieces) for _ in range(5))
        code, said = owner(tmp_path / "phone", "pause", "--for", "2h")
        assert code == 0
        assert said.startswith("phone is resting: paused by its owner until ")
        assert begun + "".join(pieces) == expected
        assert answer.end
        assert [timing.node for timing in answer.end.stages] == ["pi"]
        shown = next(node for node in client.nodes().nodes if node.node == "phone")
        assert (shown.state, shown.drained[: len(WHY)]) == ("online", WHY)
        assert "lost" not in (told := kinds(client))
        assert "broken" not in told
        found = state(tmp_path / "phone")
        assert (found["state"], found["runs"], found["no_broker_s"]) == ("resting", "", None)
        assert isinstance(found["tokens"], int)
        assert found["tokens"] > TOKENS
        assert isinstance(found["bytes_in"], int)
        assert found["bytes_in"] > 1000


def test_paused_without_others_what_is_asked_waits_over_restarts_and_the_text_is_the_same(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, options = tmp_path / "phone", ("--emulate-speed", "0.05")
    with running_nodes(["phone"], mosquitto.url, tmp_path, *options) as nodes:
        with serving(mosquitto, tiny_store, tmp_path, 1) as client:
            wait_until_serving(client)
            expected = "".join(client.ask(prompt=PROMPT, max_tokens=TOKENS))
            pieces = iter(client.ask(prompt=PROMPT, max_tokens=TOKENS, patience_s=DEADLINE_S))
            begun = "".join(next(pieces) for _ in range(5))
            code, said = owner(home, "pause")
            assert code == 0
            assert said.startswith("phone is resting: paused by its owner")
            wait_until_left_out(client)
            nodes["phone"].end()
            assert owner(home, "status")[0] == 3
            nodes["phone"] = start_node("phone", mosquitto.url, home, *options)
            wait_until_left_out(client)
            owner(home, "resume")
            assert begun + "".join(pieces) == expected
            assert "interrupted after" in caplog.text
            owner(home, "pause")
            wait_until_left_out(client)
        with serving(mosquitto, tiny_store, tmp_path, 1) as client:
            wait_until_left_out(client)
            answer = client.ask(prompt=PROMPT, max_tokens=TOKENS, patience_s=DEADLINE_S)
            code, said = owner(home, "resume")
            assert code == 0
            assert said.startswith("phone is ")
            assert "resting" not in said
            assert "".join(answer) == expected


@contextmanager
def charging_phone(mosquitto: LocalBroker, home: Path) -> Iterator[None]:
    """A node in this process, quicker to see its charger than one on a phone."""
    config = NodeConfig(
        name="phone", broker_url=as_member(mosquitto.url, "phone", "node"), home=home, only_charging=True,
        drain_timeout_s=0.0, condition_look_s=0.05, condition_off_s=0.1, condition_on_s=0.1, emulated_speed=0.05,
    )  # fmt: skip
    service = NodeService(config)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield
    finally:
        service.stop()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_only_charging_it_serves_on_a_charger_and_a_reader_that_hangs_costs_no_token(
    mosquitto: LocalBroker,
    tiny_store: ModelStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    command = tmp_path / "bin" / "termux-battery-status"
    command.parent.mkdir()

    def battery(does: str) -> None:
        command.with_suffix(".new").write_text(f"#!/bin/sh\n{does}\n")
        command.with_suffix(".new").chmod(0o755)
        command.with_suffix(".new").replace(command)

    def plugged(word: str) -> str:
        said = {"percentage": 80, "status": "NOT_CHARGING", "plugged": word, "temperature": 30}
        return f"echo '{json.dumps(said)}'"

    battery(plugged("PLUGGED_AC"))
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    with charging_phone(mosquitto, tmp_path / "phone"), serving(mosquitto, tiny_store, tmp_path, 1) as client:
        wait_until_serving(client)
        expected = "".join(client.ask(prompt=PROMPT, max_tokens=TOKENS))
        pieces = iter(client.ask(prompt=PROMPT, max_tokens=TOKENS, patience_s=DEADLINE_S))
        begun = "".join(next(pieces) for _ in range(5))
        battery(plugged("UNPLUGGED"))
        wait_until_left_out(client, "it rests: it is not on a charger")
        battery(plugged("PLUGGED_USB"))
        assert begun + "".join(pieces) == expected
        assert "interrupted after" in caplog.text
        wait_until_serving(client)
        battery(f"echo >>{tmp_path / 'hangs'}; exec sleep 60")
        wait_until((tmp_path / "hangs").exists)
        assert "".join(client.ask(prompt=PROMPT, max_tokens=TOKENS)) == expected
        assert len((tmp_path / "hangs").read_text()) == 1


def wait_until_left_out(client: Client, why: str = WHY) -> None:
    """Ask until the phone is here, rests, and has no layers."""

    def is_left_out() -> bool:
        phones = [one for one in client.nodes().nodes if (one.state, one.drained) == ("online", why)]
        return client.status().state != "serving" and bool(phones)

    wait_until(is_left_out)


def wait_until(holds: Callable[[], bool]) -> None:
    """Ask again and again: an orchestrator tells an operator who asks."""
    end_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)
