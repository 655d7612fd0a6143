"""Devices that run short of memory, get hot or empty, or tell nothing.

They give their layers up in time, the answer goes on with the same text, and they come back when they are well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.fleet.health import HealthLimits
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from schemas.contract import load
from schemas.messages import NodeView, PlanConstraints
from tests.support.memory_group import memory_group
from tests.support.nodes import NodeProcess, running_nodes, start_node
from tests.support.polling import DEADLINE_S
from tests.support.services import QUICK, apply, patient_client, running_service, wait_until_serving

PROMPT = "one two three four five six seven"
TOKENS = 100
BEGUN = 5
PHONE = "phone"
ENDS: dict[str, Any] = {"objective": "throughput", "pins": [["embed", "a"], ["head", "b"]]}
ANSWERS = '{"percentage": %d, "status": "%s", "temperature": %d}'
WELL = (80, "CHARGING", 30)
HOT = ((80, "CHARGING", 47), "its battery is at 47 C")
EMPTY = ((14, "DISCHARGING", 30), "its battery is at 14 %, not charging")
IN_TIME = (32_000_000, "of memory left")
"""What is left, so that others can take the layers over; what is said."""
AT_ONCE = (9_000_000, "may end it at any moment")
"""There is no time for that."""


class World:
    """A phone that is so much quicker than two slow nodes that plans have it in the middle."""

    def __init__(self, client: Client, phone: NodeProcess) -> None:
        self.client, self.phone = client, phone

    def ring(self) -> list[str]:
        return [stage.node for stage in self.client.plan().stages]

    def view(self) -> NodeView:
        return next(view for view in self.client.nodes().nodes if view.node == PHONE)

    def told(self, kind: str) -> list[str]:
        """Texts of events of a kind."""
        return [event.text for event in self.client.past_events().events if event.kind == kind]

    def wait(self, condition: Callable[[], object]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            told = [event.text for event in self.client.past_events().events]
            assert time.monotonic() < end_s, "\n".join([*told, *self.phone.log().splitlines()[-20:]])
            time.sleep(0.02)

    def await_return(self, times: int) -> None:
        """Wait until the phone may have layers again; it is given some when somebody asks for a plan, at the latest."""
        self.wait(lambda: len(self.told("restored")) >= times and not self.view().drained)
        apply(self.client, **ENDS)
        assert self.ring() == ["a", PHONE, "b"]

    def ask(self, meanwhile: Callable[[], None] = lambda: None) -> tuple[str, list[str]]:
        """The text of an answer in whose middle something happens, and the nodes that have ended it."""
        answer = self.client.ask(prompt=PROMPT, max_tokens=TOKENS, stats=True)
        pieces = iter(answer)
        text = "".join(next(pieces) for _ in range(BEGUN))
        meanwhile()
        text += "".join(pieces)
        assert len(answer.token_ids) == TOKENS
        assert answer.end
        return text, [timing.node for timing in answer.end.stages]


@contextmanager
def world(
    mosquitto: LocalBroker, store: ModelStore, folder: Path, module: tuple[str, ...], *options: str
) -> Iterator[World]:
    with Database(folder / "state.sqlite3") as state:
        state.save_constraints("main", load(PlanConstraints, ENDS))
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=folder, models_dir=store.home, model="tiny",
        timing=replace(QUICK, exclude_s=1.0), min_nodes=3, context_tokens=256, slots=2, wire_dtype="fp32",
        health=HealthLimits(dwell_s=0.1),
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(running_nodes("ab", mosquitto.url, folder, "--emulate-speed", "0.01"))
        with pytest.MonkeyPatch.context() as of_phone:
            of_phone.setenv("PATH", f"{folder / 'termux'}:{os.environ['PATH']}")
            phone = start_node(PHONE, mosquitto.url, folder / PHONE, "--emulate-speed", "0.7", *options, module=module)
        stack.callback(phone.end)
        stack.enter_context(running_service(config))
        client = stack.enter_context(patient_client(mosquitto.url))
        wait_until_serving(client)
        made = World(client, phone)
        assert made.ring() == ["a", PHONE, "b"]
        yield made


def say(folder: Path, reading: tuple[int, str, int]) -> None:
    """Let Termux's command say this from now on."""
    (folder / "new").write_text(ANSWERS % reading)
    (folder / "new").rename(folder / "says")


@pytest.fixture
def termux(tmp_path: Path) -> Path:
    """The phone's Termux: its command says what is in a file of this folder, and hangs where there is none."""
    folder = tmp_path / "termux"
    folder.mkdir()
    command = folder / "termux-battery-status"
    command.write_text(f"#!/bin/sh\n[ -s {folder}/says ] || exec sleep 60\ncat {folder}/says\n")
    command.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    "ills", [pytest.param((HOT,), id="hot"), pytest.param((EMPTY, HOT), id="empty, hot", marks=pytest.mark.long)]
)
def test_a_hot_or_an_empty_phone_gives_its_layers_up_until_it_is_well(
    mosquitto: LocalBroker,
    tiny_store: ModelStore,
    tmp_path: Path,
    termux: Path,
    ills: tuple[tuple[tuple[int, str, int], str], ...],
) -> None:
    say(termux, WELL)
    with world(mosquitto, tiny_store, tmp_path, ("tests.support.sick_node", "is_asked_often")) as fleet:
        expected, by = fleet.ask()
        assert by == ["a", PHONE, "b"]
        for times, (reading, reason) in enumerate(ills):
            text, by = fleet.ask(lambda reading=reading: say(termux, reading))  # type: ignore[misc]
            assert (text, by) == (expected, ["a", "b"])
            assert fleet.told("drained")[times:] == [f"node {PHONE} gives up its layers: {reason}"]
            say(termux, WELL)
            fleet.await_return(times + 1)
        assert not fleet.told("lost")


def test_readers_that_hang_cost_no_token(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path, termux: Path
) -> None:
    with world(mosquitto, tiny_store, tmp_path, ("tests.support.sick_node", "readers_hang")) as fleet:
        expected, by = fleet.ask()
        assert by == ["a", PHONE, "b"]
        before = fleet.view()
        assert fleet.ask() == (expected, ["a", PHONE, "b"])
        fleet.wait(lambda: (fleet.view().uptime_s or 0.0) > (before.uptime_s or 0.0))
        view = fleet.view()
        assert (view.battery_percent, view.temperature_c) == (None, None)
        assert (view.drained, view.state) == ("", "online")
        assert not {event.kind for event in fleet.client.past_events().events} & {"lost", "drained", "broken"}
        assert not (termux / "says").exists(), "it was asked, and has not answered"


@pytest.mark.parametrize(
    "shrunk",
    [pytest.param((AT_ONCE,), id="at once"), pytest.param((IN_TIME, AT_ONCE), id="in time", marks=pytest.mark.long)],
)
def test_a_phone_whose_control_group_shrinks_gives_its_layers_up_until_there_is_more(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path, shrunk: tuple[tuple[int, str], ...]
) -> None:
    with (
        memory_group("linguabus") as group,
        world(mosquitto, tiny_store, tmp_path, ("tests.support.memory_group", str(group.folder))) as fleet,
    ):
        memory_bytes = fleet.view().memory_bytes
        expected, by = fleet.ask()
        assert by == ["a", PHONE, "b"]
        for times, (left_bytes, told) in enumerate(shrunk):
            text, by = fleet.ask(lambda left_bytes=left_bytes: group.leave_bytes(left_bytes))  # type: ignore[misc]
            assert (text, by) == (expected, ["a", "b"])
            assert fleet.phone.process.poll() is None
            assert told in fleet.phone.log() + "".join(fleet.told("drained"))
            fleet.wait(lambda: fleet.view().memory_bytes < memory_bytes // 2)
            group.lift()
            fleet.wait(lambda: fleet.view().memory_bytes > memory_bytes // 2)
            fleet.await_return(times + 1)
        assert fleet.ask()[0] == expected
        assert not fleet.told("lost")
        fleet.phone.end()


def test_a_node_that_takes_more_than_its_limit_gives_its_layers_up(
    mosquitto: LocalBroker, tiny_store: ModelStore, tmp_path: Path
) -> None:
    module = ("tests.support.sick_node", "takes_more_memory")
    with world(mosquitto, tiny_store, tmp_path, module, "--memory-limit-mb", "300") as fleet:
        text, by = fleet.ask()
        assert by == ["a", "b"]
        assert "MB of memory, and may use" in fleet.told("drained")[0]
        assert fleet.view().memory_bytes < 300_000_000
        assert fleet.phone.process.poll() is None
        assert fleet.ask()[0] == text
