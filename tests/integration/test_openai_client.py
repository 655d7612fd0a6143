"""OpenAI's own client holds conversations with the gateway."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from orchestrator.client import async_client
from orchestrator.gateway.access import Guard, key_access
from orchestrator.gateway.access_key import key_text
from orchestrator.service.http_access import Access
from tests.support.gateway_world import HELLO, GatewayWorld, openai_client
from tests.support.polling import DEADLINE_S
from tests.support.scripted_nodes import Letters, answer_text, slowly_encoded


@pytest.fixture
def client(root: str) -> Iterator[openai.OpenAI]:
    with openai_client(root) as client:
        yield client


def post(root: str, path: str, body: Any) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    return httpx.post(f"{root}{path}", content=data, headers=headers, timeout=DEADLINE_S)


def test_the_models_that_are_served(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "linguabus"
    with pytest.raises(openai.NotFoundError, match="served: tiny"):
        client.models.retrieve("gpt-4o")


def test_a_conversation(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=8)
    assert said.choices[0].message.content == answer_text(5, 8)
    assert said.choices[0].finish_reason == "length"
    assert said.usage
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (5, 8, 13)


def test_parts_of_text_are_one_text(client: openai.OpenAI) -> None:
    parts: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    said = client.chat.completions.create(model="default", messages=parts, max_tokens=3)
    assert said.choices[0].message.content == answer_text(2, 3)


def test_a_stream(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=10, stream=True, stream_options=options
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == answer_text(5, 10)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert not chunks[-1].choices
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 10


def test_several_answers_to_a_question(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=6, n=3)
    assert [choice.message.content for choice in said.choices] == [answer_text(5, 6)] * 3
    assert said.usage
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (5, 18)
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=6, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [answer_text(5, 6)] * 2


def test_raw_text_goes_on(client: openai.OpenAI) -> None:
    said = client.completions.create(model="tiny", prompt="abc", max_tokens=4, echo=True)
    assert said.choices[0].text == "abc" + answer_text(3, 4)
    stream = client.completions.create(model="tiny", prompt="abc", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer_text(3, 4)


def test_an_answer_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    text = answer_text(5, 12)
    for stop in (text[6], text[5:8], ["nowhere", text[6:8]]):
        first = stop[-1] if isinstance(stop, list) else stop
        said = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12, stop=stop)
        assert said.choices[0].message.content == text[: text.index(first)]
        assert said.choices[0].finish_reason == "stop"
    stream = client.completions.create(model="tiny", prompt="hello", max_tokens=12, stop=text[5:8], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == text[:5]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"stream": "perhaps"}, "stream"),
        ({"stop": [""]}, "stop.0"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_a_wrong_field_is_named(root: str, wrong: dict[str, Any], field: str) -> None:
    response = post(root, "/v1/chat/completions", {"model": "tiny", "messages": HELLO} | wrong)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (422, "invalid_request_error")
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,c2VjcmV0"}}, "pictures can't be looked at"),
        ({"type": "input_audio", "input_audio": {"data": "c2VjcmV0", "format": "wav"}}, "sound can't be listened to"),
        ({"type": "hologram", "hologram": "c2VjcmV0"}, "there are no parts of its type"),
    ],
)
def test_what_is_no_text_is_refused_by_name(client: openai.OpenAI, part: dict[str, Any], why: str) -> None:
    content: Any = [{"type": "text", "text": "What is this?"}, part]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="tiny", messages=[*HELLO, {"role": "user", "content": content}])
    body: Any = refused.value.body
    assert body["message"] == f"messages.1.content: part 1 is no text, and {why} here: leave it out"
    assert (body["param"], body["type"]) == ("messages.1.content", "invalid_request_error")


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"null", b'{"messages": 1}'])
def test_what_is_no_request_is_said_to_be_none(root: str, body: bytes) -> None:
    response = post(root, "/v1/chat/completions", body)
    assert response.status_code in (400, 422)
    assert response.json()["error"]["message"]


def test_fields_that_are_not_known_are_passed_over(root: str) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 2, "user": "me", "store": False, "metadata": {"a": "b"}}
    assert post(root, "/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("streams", [False, True])
def test_a_prompt_longer_than_the_context(client: openai.OpenAI, streams: bool) -> None:
    """What is refused before the first piece has a status, in a stream as well."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="a" * 300, stream=streams)
    assert refused.value.code == "context_length_exceeded"


def test_a_prompt_of_a_megabyte_has_a_status(gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its tokens take longer to be counted than a stream's headers wait else."""
    monkeypatch.setattr(Letters, "encode", slowly_encoded)
    with gateway_world.gateway() as root:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "a " * 500_000}], "stream": True}
        response = post(root, "/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.usefixtures("endless")
def test_an_answer_that_fails_after_its_beginning_says_so_in_its_stream(
    gateway_world: GatewayWorld, client: openai.OpenAI
) -> None:
    stream = client.completions.create(
        model="tiny", prompt="hello", max_tokens=40, stream=True, extra_body={"patience_s": 1}
    )
    next(stream)
    gateway_world.end_service()
    try:
        with pytest.raises(openai.APIError, match="no orchestrator answers"):
            list(stream)
    finally:
        gateway_world.serve()


def test_a_question_that_the_broker_would_not_pass_on(root: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a" * 2_400_000}]}
    response = post(root, "/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_long")


def test_a_body_that_is_too_long(root: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a" * (5 << 20)}]}
    with contextlib.suppress(httpx.TransportError):  # the connection may be ended while the rest is on its way
        assert post(root, "/v1/chat/completions", body).status_code == 413


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_body_that_will_be_too_long_is_refused_with_words(root: str, path: str) -> None:
    address = httpx.URL(root)
    with socket.create_connection((address.host, address.port or 0), DEADLINE_S) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {5 << 20}\r\n\r\n".encode())
        head, _, body = b"".join(iter(functools.partial(connection.recv, 4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    error = json.loads(body)["error"]
    if path.startswith("/v1"):
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "too_long", None)
        error = error["message"]
    assert error == "the body is too long: send a shorter conversation"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize("chunk_bytes", [1_000, 1 << 20])
def test_a_body_of_unknown_length_that_is_too_long_is_refused_with_words(
    root: str, path: str, chunk_bytes: int
) -> None:
    address = httpx.URL(root)
    chunk = f"{chunk_bytes:x}\r\n".encode() + bytes(chunk_bytes) + b"\r\n"
    with socket.create_connection((address.host, address.port or 0), DEADLINE_S) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range((6 << 20) // chunk_bytes):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        error = json.loads(answer.read())["error"]
        assert answer.status == 413
        if path.startswith("/v1"):
            assert (error["type"], error["code"]) == ("invalid_request_error", "too_long")
            error = error["message"]
        assert error == "the body is too long: send a shorter conversation"
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        again = http.client.HTTPResponse(connection)
        again.begin()
        assert again.status == 200


def test_nothing_is_where_nothing_is(root: str) -> None:
    missing = httpx.get(f"{root}/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert httpx.get(f"{root}/v1/chat/completions").status_code == 405
    assert httpx.get(f"{root}/health").json()["status"] == "ok"
    assert httpx.get(f"{root}/ready").json() == {"status": "ok", "model": "tiny"}
    assert "/v1/chat/completions" in httpx.get(f"{root}/openapi.json").json()["paths"]


@pytest.mark.usefixtures("endless")
def test_an_answer_ends_when_its_reader_hangs_up(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=40, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert gateway_world.operator.status().open_requests == 1
    gateway_world.until_nothing_is_open()


@pytest.mark.usefixtures("endless")
def test_an_answer_that_is_awaited_whole_ends_when_its_reader_hangs_up(gateway_world: GatewayWorld, root: str) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 40}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{root}/v1/chat/completions", json=body, timeout=1.0)
    gateway_world.until_nothing_is_open()


@pytest.mark.usefixtures("endless")
def test_a_stream_says_that_it_is_still_there(root: str) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "stream": True}
    with httpx.stream("POST", f"{root}/v1/chat/completions", json=body, timeout=DEADLINE_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert any(line == ": still there" for line in response.iter_lines())


@pytest.mark.usefixtures("endless")
def test_who_has_too_many_open_is_told_to_wait(gateway_world: GatewayWorld) -> None:
    with gateway_world.gateway(answers_per_caller=1) as root:
        client = openai_client(root)
        with client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=40, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(model="tiny", messages=HELLO)
            assert int(refused.value.response.headers["retry-after"]) > 0
        gateway_world.until_nothing_is_open()
        gateway_world.fleet.most_tokens = None
        assert client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2).choices


def test_a_page_from_elsewhere_is_not_answered_where_no_key_is_asked_for(root: str) -> None:
    """Its name may have been made this machine's, for its own scripts to ask here."""
    assert httpx.get(f"{root}/v1/models", headers={"host": "evil.example"}).status_code == 400
    assert httpx.get(f"{root}/v1/models", headers={"host": "localhost:1"}).status_code == 200


def test_a_body_of_another_kind_is_said_to_be_one(root: str) -> None:
    body = json.dumps({"model": "tiny", "messages": HELLO})
    response = httpx.post(f"{root}/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
    assert (response.status_code, "content-type: application/json" in response.text) == (400, True)


def access(keys: dict[str, str]) -> Access:
    return key_access(lambda name, key: keys.get(name) == key)


def test_keys(gateway_world: GatewayWorld) -> None:
    keys = {"notebook": "secret", "a.b": "other"}
    with gateway_world.gateway(guard=Guard(access(keys))) as root:
        for name in keys:
            assert openai_client(root, key_text(name, keys[name])).models.list().data
        for wrong in ("", "none", "lb-notebook.other", "lb-nobody.secret", "notebook.secret", "lb-.", "lb-notebook."):
            with pytest.raises(openai.AuthenticationError, match="linguabus key NAME"):
                openai_client(root, wrong or "x").models.list()
        for open_path in ("/health", "/", "/api/version"):
            assert httpx.get(f"{root}{open_path}").status_code == 200
        del keys["notebook"]
        with pytest.raises(openai.AuthenticationError):
            openai_client(root, key_text("notebook", "secret")).models.list()


def test_a_question_waits_for_an_orchestrator_and_says_so(gateway_world: GatewayWorld, root: str) -> None:
    assert httpx.get(f"{root}/v1/models").status_code == 200
    gateway_world.end_service()
    began: threading.Timer | None = None
    said = ""
    body = {"model": "default", "messages": HELLO, "max_tokens": 6, "stream": True}
    with httpx.stream("POST", f"{root}/v1/chat/completions", json=body, timeout=DEADLINE_S) as response:
        for line in response.iter_lines():
            if line.startswith(": waiting for") and began is None:
                began = threading.Timer(0, gateway_world.serve)
                began.start()
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                said += choices[0]["delta"].get("content", "")
    assert began
    began.join()
    assert said == answer_text(5, 6)


def test_without_an_orchestrator_a_gateway_that_knows_of_none_says_so(gateway_world: GatewayWorld) -> None:
    gateway_world.end_service()
    try:
        with gateway_world.gateway() as root:
            response = httpx.get(f"{root}/v1/models", timeout=DEADLINE_S)
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert httpx.get(f"{root}/ready", timeout=DEADLINE_S).status_code == 503
            assert httpx.get(f"{root}/health").status_code == 200
    finally:
        gateway_world.serve()


@pytest.mark.parametrize("knows_models", [True, False])
def test_who_does_not_wait_is_told_at_once_that_nobody_is_there(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch, knows_models: bool
) -> None:
    """Others wait for an answer to whatever the orchestrator is asked, here for longer than anybody would."""
    with gateway_world.gateway() as root:
        if knows_models:
            assert httpx.get(f"{root}/v1/models").status_code == 200
        gateway_world.end_service()
        try:
            monkeypatch.setattr(async_client, "CONTROL_TIMEOUT_S", 10 * DEADLINE_S)
            body = {"model": "default", "messages": HELLO, "patience_s": 0}
            for _ in range(100):  # until the gateway has heard that it is gone
                with contextlib.suppress(httpx.ReadTimeout):
                    response = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=DEADLINE_S / 100)
                    break
            assert response.status_code == 503
            assert "linguabus serve --with-broker" in response.json()["error"]["message"]
        finally:
            monkeypatch.undo()
            gateway_world.serve()
