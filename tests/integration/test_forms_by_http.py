"""Structured output by each client that has a way to ask for it, of real nodes: whole documents of the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.model.store import ModelStore
from tests.support.gateway_world import langchain_client, openai_client
from tests.support.llm_command import LlmCommand
from tests.support.real_gateway import real_gateway
from tests.support.secured_broker import SecuredBroker

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["one", "two"]},
        "numbers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["kind", "numbers"],
    "additionalProperties": False,
}
WAYS = ("chat", "responses")


@pytest.fixture(scope="module")
def root(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SecuredBroker() as broker, real_gateway(tiny_store, broker, tmp_path_factory.mktemp("real")) as gateway:
        yield gateway.root


def is_of_the_schema(text: str) -> bool:
    Draft202012Validator(SCHEMA).validate(json.loads(text))
    return True


def test_openai(root: str) -> None:
    form: Any = {"type": "json_schema", "name": "numbers", "schema": SCHEMA, "strict": True}
    with openai_client(root) as client:
        said = client.responses.create(model="tiny", input="numbers", text={"format": form}, max_output_tokens=120)
        assert said.status == "completed"
        assert is_of_the_schema(said.output_text)
        assert said.text
        assert said.text.format
        assert said.text.format.type == "json_schema"
        with client.responses.stream(
            model="tiny", input="numbers", text={"format": form}, max_output_tokens=120
        ) as stream:
            assert is_of_the_schema(stream.get_final_response().output_text)
        wrapped: Any = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": SCHEMA}}
        chat = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "numbers"}], response_format=wrapped, max_tokens=120
        )
        assert is_of_the_schema(chat.choices[0].message.content or "")
        free: Any = {"format": {"type": "json_object"}}
        begun = client.responses.create(model="tiny", input="numbers", text=free, max_output_tokens=12)
        assert begun.output_text.startswith("{")


def test_openai_tells_probabilities_with_each_piece(root: str) -> None:
    asked: Any = {
        "model": "tiny", "input": "def f(x):", "max_output_tokens": 12, "temperature": 0, "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
    }  # fmt: skip
    with openai_client(root) as client:
        (message,) = client.responses.create(**asked).output
        assert message.type == "message"
        assert message.content[0].type == "output_text"
        whole = message.content[0].logprobs
        assert whole
        assert len(whole) == 12
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in whole)
        told = [
            token.logprob
            for event in client.responses.create(**asked, stream=True)
            if event.type == "response.output_text.delta"
            for token in event.logprobs
        ]
    assert told == pytest.approx([token.logprob for token in whole][: len(told)])
    assert told


@pytest.mark.parametrize("way", WAYS)
def test_langchain(root: str, way: str) -> None:
    form = langchain_client(root, way).with_structured_output({"title": "numbers", **SCHEMA}, method="json_schema")
    said = form.invoke("numbers", max_tokens=120)
    assert is_of_the_schema(json.dumps(said))


@pytest.mark.parametrize("way", WAYS)
def test_llm(root: str, way: str, tmp_path: Path) -> None:
    llm = LlmCommand(tmp_path, root, way)
    assert is_of_the_schema(llm("--schema", json.dumps(SCHEMA), "-o", "max_tokens", "120", "numbers"))
