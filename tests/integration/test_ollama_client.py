"""Ollama's own client holds conversations with the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from orchestrator.model.store import ModelStore
from tests.support.gateway_world import HELLO, GatewayWorld
from tests.support.polling import DEADLINE_S
from tests.support.scripted_nodes import Letters, answer_text, slowly_encoded


@pytest.fixture
def client(root: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=root) as client:
        yield client


def test_what_is_there(client: ollama.Client, root: str) -> None:
    """As Home Assistant asks before it asks anything."""
    assert httpx.get(root).status_code == 200
    version = httpx.get(f"{root}/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    (model,) = client.list().models
    assert model.model == "tiny"
    assert client.ps().models[0].model == "tiny"
    assert client.show("tiny:latest").capabilities == ["completion", "tools"]


def test_what_the_host_knows_of_a_model(gateway_world: GatewayWorld, tiny_store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_store.home)
    with gateway_world.gateway(home=tmp_path) as root, ollama.Client(host=root) as client:
        for model in (client.list().models[0], client.ps().models[0]):
            assert model.size == tiny_store.show("tiny").weight_bytes
        for details in (model.details, client.show("tiny").details):
            assert details
            assert (details.format, details.family, details.quantization_level) == ("onnx", "llama", "fp32")


def test_a_model_that_knows_no_tools_does_not_say_so(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Letters, "tool_format", None)
    with gateway_world.gateway() as root, ollama.Client(host=root) as client:
        assert client.show("tiny").capabilities == ["completion"]


def test_a_conversation(client: ollama.Client) -> None:
    said = client.chat("tiny", messages=HELLO, options={"num_predict": 8, "num_ctx": 8192}, keep_alive=-1)
    assert said.message.content == answer_text(5, 8)
    assert (said.done, said.done_reason, said.prompt_eval_count, said.eval_count) == (True, "length", 5, 8)
    assert said.total_duration
    assert said.total_duration > 0


def test_a_stream(client: ollama.Client) -> None:
    parts = list(client.chat("tiny", messages=HELLO, options={"num_predict": 8}, stream=True))
    assert "".join(part.message.content or "" for part in parts) == answer_text(5, 8)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_prompt(client: ollama.Client) -> None:
    assert client.generate("tiny", "hello", options={"num_predict": 4}).response == answer_text(5, 4)
    raw = client.generate("tiny", "hi", raw=True, options={"num_predict": 4}, stream=True)
    assert "".join(part.response for part in raw) == answer_text(2, 4)
    with_system = client.generate("tiny", "hello", system="be brief", options={"num_predict": 4})
    assert with_system.response == answer_text(5 + len("be brief"), 4)


def test_a_body_is_json_whatever_it_is_said_to_be(root: str) -> None:
    """Examples with curl say nothing, which makes it a form."""
    body = json.dumps({"model": "default:latest", "prompt": "hello", "stream": False, "options": {"num_predict": 2}})
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{root}/api/generate", content=body, headers=form, timeout=DEADLINE_S).json()["done"]
    foreign = form | {"origin": "http://evil.example"}
    assert httpx.post(f"{root}/api/generate", content=body, headers=foreign).status_code == 403


def test_a_model_is_loaded_before_it_is_asked(client: ollama.Client) -> None:
    assert client.chat("tiny", messages=[]).done_reason == "load"
    assert client.generate("tiny", "").done_reason == "load"


def test_a_model_that_is_served_is_pulled_already(client: ollama.Client) -> None:
    assert client.pull("tiny").status == "success"
    with pytest.raises(ollama.ResponseError, match="linguabus model add") as refused:
        client.pull("llama3")
    assert refused.value.status_code == 404


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({"model": "llama3"}, 404, "served: tiny"),
        ({"options": {"temperature": -1}}, 422, "options.temperature"),
        ({"messages": [{"role": "user", "content": "a", "images": ["QQ=="]}]}, 422, "images"),
        ({"think": True}, 400, "think"),
        ({"format": "yaml"}, 422, "format"),
        ({"format": {"type": "nothing"}, "stream": False}, 400, "type"),
        ({"tools": [{"type": "function", "function": {}}]}, 422, "tools"),
    ],
)
def test_what_is_not_done_is_refused_by_name(root: str, wrong: dict[str, Any], status: int, said: str) -> None:
    response = httpx.post(f"{root}/api/chat", json={"model": "tiny", "messages": HELLO} | wrong, timeout=DEADLINE_S)
    assert response.status_code == status
    assert said in response.json()["error"]


def test_a_question_that_fails_in_mid_stream_says_so(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="the context is"):
        list(client.generate("tiny", "a" * 300, raw=True, stream=True))


def test_a_prompt_of_a_megabyte_has_a_status(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its tokens take longer to be counted than a stream's headers wait else."""
    monkeypatch.setattr(Letters, "encode", slowly_encoded)
    with gateway_world.gateway() as root:
        body = {"model": "tiny", "prompt": "a " * 500_000, "stream": True}
        response = httpx.post(f"{root}/api/generate", json=body, timeout=DEADLINE_S)
    assert (response.status_code, "the context is" in response.json()["error"]) == (400, True)


def test_an_answer_ends_when_its_reader_hangs_up(gateway_world: GatewayWorld, root: str) -> None:
    gateway_world.fleet.most_tokens = 4
    try:
        body = {"model": "tiny", "messages": HELLO, "options": {"num_predict": 40}}
        with httpx.stream("POST", f"{root}/api/chat", json=body, timeout=DEADLINE_S) as response:
            lines = response.iter_lines()  # whose end would end the response
            assert any(json.loads(line)["message"]["content"] for line in lines)
            assert gateway_world.operator.status().open_requests == 1
        gateway_world.until_nothing_is_open()
    finally:
        gateway_world.fleet.most_tokens = None
