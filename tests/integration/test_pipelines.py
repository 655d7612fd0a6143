"""Two pipelines over real nodes: both answer, with the texts of one pipeline, and the loss of a node ends no answer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import Answer, Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.services import QUICK, apply, patient_client, running_service, wait_until_serving

NAMES = ("alfa", "bravo", "charlie", "delta")
PROMPTS = [f"{word} of the story" for word in ("begin", "heart", "moral", "end", "price", "sound", "depth", "weight")]


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Slow ones: two together are quicker than one."""
    with running_nodes(NAMES, mosquitto.url, tmp_path, "--emulate-speed", "0.04") as running:
        yield running


@contextmanager
def serving(mosquitto: LocalBroker, store: ModelStore, folder: Path, pipelines: int) -> Iterator[Client]:
    """An orchestrator on these nodes, for throughput."""
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=folder, models_dir=store.home, timing=QUICK, wire_dtype="fp32",
        context_tokens=256, slots=4, model="tiny", min_nodes=len(NAMES), pipelines=pipelines,
    )  # fmt: skip
    with running_service(config), patient_client(mosquitto.url) as client:
        wait_until_serving(client)
        apply(client, objective="throughput")
        yield client


def ask_all(client: Client, max_tokens: int) -> list[Answer]:
    """All prompts at once."""
    return [client.ask(prompt=prompt, max_tokens=max_tokens, stats=True) for prompt in PROMPTS]


def read(answers: list[Answer]) -> list[list[int]]:
    for answer in answers:
        "".join(answer)
    return [answer.token_ids for answer in answers]


def rings(client: Client) -> dict[str, set[str]]:
    """Nodes by pipeline."""
    return {plan.pipeline: {stage.node for stage in plan.stages} for plan in client.plan().pipelines}


def ends(answers: list[Answer]) -> set[frozenset[str]]:
    """The nodes of the rings that answers ended on."""
    return {frozenset(timing.node for timing in answer.end.stages) for answer in answers if answer.end}


def open_requests(client: Client) -> dict[str, int]:
    """By pipeline."""
    return {one.pipeline: one.open_requests for one in client.status().pipelines}


def test_two_pipelines_answer_as_one(
    mosquitto: LocalBroker,
    nodes: dict[str, NodeProcess],
    tiny_store: ModelStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(mosquitto, tiny_store, tmp_path, pipelines=1) as client:
        assert list(rings(client)) == ["main"]
        expected = read(ask_all(client, 48))

    with serving(mosquitto, tiny_store, tmp_path, pipelines=2) as client:
        before = rings(client)
        assert list(before) == ["main", "main-2"]
        assert not before["main"] & before["main-2"]
        answers = ask_all(client, 48)
        assert read(answers) == expected
        used = ends(answers)
        assert {name for name, ring in before.items() if any(end <= ring for end in used)} == set(before)
        assert all(any(end <= ring for ring in before.values()) for end in used)

        answers = ask_all(client, 48)
        pieces = [iter(answer) for answer in answers]
        for piece in pieces:
            next(piece)
        lost, in_danger = sorted(before["main-2"])[0], open_requests(client)["main-2"]
        nodes[lost].end(signal.SIGKILL)  # in mid-answer
        for piece in pieces:
            "".join(piece)
        assert [answer.token_ids for answer in answers] == expected
        assert not any(lost in ring for ring in ends(answers))
        # The nodes that are left may be dealt out anew meanwhile, which moves answers but interrupts none.
        interrupted = [record for record in caplog.records if "interrupted after" in record.getMessage()]
        assert 1 <= len(interrupted) <= in_danger
        assert [answer.end.finish_reason for answer in answers if answer.end] == ["length"] * len(PROMPTS)
    logs = [node.log() for node in nodes.values()]
    assert not any("Traceback" in log for log in logs)
