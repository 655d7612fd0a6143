"""Two pipelines over real nodes: both answer, with the texts of one pipeline, and the loss of a node ends no answer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.local import LocalBroker
from orchestrator.client import Answer, Client
from orchestrator.config import ServiceConfig, Timing
from orchestrator.model.store import ModelStore
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.services import running_service

NAMES = ("alfa", "bravo", "charlie", "delta")
PROMPTS = [f"{word} of the story" for word in ("begin", "heart", "moral", "end", "price", "sound", "depth", "weight")]
QUICK = Timing(settle_s=0.2, start_s=1.0, loss_settle_s=0.1, resend_s=0.5)


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
    with running_service(config), Client.connect(mosquitto.url) as client:
        while client.control("status")["state"] != "serving":
            client.control("nodes")
        client.control("apply", timeout_s=60.0, objective="throughput")
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
    plans: list[dict[str, Any]] = client.control("plan")["pipelines"]
    return {plan["pipeline"]: {stage["node"] for stage in plan["stages"]} for plan in plans}


def test_two_pipelines_answer_as_one(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_store: ModelStore, tmp_path: Path
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
        used = {frozenset(timing.node for timing in answer.end.stages) for answer in answers if answer.end}
        assert used == {frozenset(ring) for ring in before.values()}

        answers = ask_all(client, 48)
        pieces = [iter(answer) for answer in answers]
        for piece in pieces:
            next(piece)
        lost = sorted(before["main-2"])[0]
        nodes[lost].end(signal.SIGKILL)  # in mid-answer
        for piece in pieces:
            "".join(piece)
        assert [answer.token_ids for answer in answers] == expected
        kept = {frozenset(timing.node for timing in answer.end.stages) for answer in answers if answer.end}
        assert frozenset(before["main"]) in kept
        assert not any(lost in ring for ring in kept)
        assert [answer.end.finish_reason for answer in answers if answer.end] == ["length"] * len(PROMPTS)
    logs = [node.log() for node in nodes.values()]
    assert not any("Traceback" in log for log in logs)
