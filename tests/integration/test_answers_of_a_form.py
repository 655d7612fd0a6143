"""Answers that are bound to a form, by real nodes over a real broker: whole documents, whatever happens on the way."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from broker.local_broker import LocalBroker
from orchestrator.client import AnswerFailed, Client
from orchestrator.model.store import ModelStore
from schemas.messages import Grammar, Sampling
from tests.support.moves import PLANS, PROMPT, Moving, moving
from tests.support.nodes import NodeProcess, start_node
from tests.support.random_schemas import random_schema
from tests.support.services import patient_client

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["one", "two"]},
        "text": {"type": "string", "minLength": 30, "maxLength": 40},
        "numbers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["kind", "text", "numbers"],
    "additionalProperties": False,
}


def bound(schema: dict[str, Any]) -> Grammar:
    return Grammar(kind="json_schema", text=json.dumps(schema))


def ask(client: Client, grammar: Grammar | None, seed: int, max_tokens: int = 200) -> tuple[str, str]:
    """The text of an answer at temperature 1, and how it ended."""
    sampling = Sampling(temperature=1.0, seed=seed)
    answer = client.ask(prompt=PROMPT, grammar=grammar, sampling=sampling, max_tokens=max_tokens)
    text = "".join(answer)
    assert answer.end
    return text, answer.end.finish_reason


@pytest.fixture
def fleet(
    tiny_store: ModelStore, mosquitto: LocalBroker, tmp_path: Path
) -> Iterator[tuple[Moving, dict[str, NodeProcess]]]:
    with moving(tiny_store, mosquitto, tmp_path, "abc", "--emulate-speed", "0.1") as (fleet, nodes):
        fleet.apply(PLANS[1])
        yield fleet, nodes


def test_documents_are_whole_and_the_same_while_layers_move_and_a_node_is_killed(
    fleet: tuple[Moving, dict[str, NodeProcess]], tmp_path: Path
) -> None:
    moves, nodes = fleet
    with patient_client(moves.broker_url) as client:
        documents = [ask(client, bound(SCHEMA), seed) for seed in range(2)]
        for text, finish in documents:
            assert finish == "stop"
            Draft202012Validator(SCHEMA).validate(json.loads(text))
        assert documents[0] != documents[1]
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(ask, client, bound(SCHEMA), 0)
            moves.apply(PLANS[2])
            moves.apply(PLANS[1])
            assert reading.result() == documents[0]
        assert moves.moves().done >= 1

        answer = client.ask(
            prompt=PROMPT, grammar=bound(SCHEMA), sampling=Sampling(temperature=1.0, seed=1), max_tokens=200
        )
        killed = False
        for _ in answer:
            if len(answer.token_ids) >= 8 and not killed:
                killed = True
                nodes["b"].end(signal.SIGKILL)  # the last stage: all that it was told is lost
                nodes["b"] = start_node("b", moves.broker_url, tmp_path / "b", "--drain-timeout", "0")
        assert killed
        assert answer.text == documents[1][0]


def test_every_kind_of_form_and_what_is_no_form(fleet: tuple[Moving, dict[str, NodeProcess]]) -> None:
    moves, _ = fleet
    with patient_client(moves.broker_url) as client:
        free = ask(client, None, 3, 30)
        for seed in (2, 5):
            text, finish = ask(client, bound(random_schema(seed)), seed, 240)
            assert finish == "stop"
            Draft202012Validator(random_schema(seed)).validate(json.loads(text))
        digits, finish = ask(client, Grammar(kind="regex", text="[0-9]{3}-[a-c]+x"), 1)
        assert finish == "stop"
        assert digits[:3].isdecimal()
        assert digits.endswith("x")
        begun, finish = ask(client, Grammar(kind="json_object"), 1, 12)
        assert finish in ("stop", "length")
        assert begun.startswith("{")
        with pytest.raises(AnswerFailed, match=r'can\'t be used: Unimplemented keys: \["not"\]'):
            ask(client, bound({"not": {}}), 1)
        assert ask(client, None, 3, 30) == free, "nothing is left of forms in other answers"
