"""OpenAI's own client holds conversations with ``/v1/responses``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway_world import GatewayWorld, openai_client
from tests.support.polling import DEADLINE_S
from tests.support.scripted_nodes import answer_text

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture
def client(root: str) -> Iterator[openai.OpenAI]:
    with openai_client(root) as client:
        yield client


def post(root: str, **fields: Any) -> httpx.Response:
    data = json.dumps({"model": "tiny", "input": "hello"} | fields).encode()
    headers = {"content-type": "application/json"}
    return httpx.post(f"{root}/v1/responses", content=data, headers=headers, timeout=DEADLINE_S)


def test_a_response(client: openai.OpenAI) -> None:
    said = client.responses.create(
        model="default", input="hello", max_output_tokens=8, temperature=0.5, top_p=0.9, metadata={"a": "b"}
    )
    assert said.output_text == answer_text(5, 8)
    assert (said.status, said.model, said.metadata) == ("incomplete", "tiny", {"a": "b"})
    assert said.incomplete_details
    assert said.incomplete_details.reason == "max_output_tokens"
    assert (said.temperature, said.top_p, said.max_output_tokens, said.tool_choice) == (0.5, 0.9, 8, "auto")
    assert said.usage
    assert (said.usage.input_tokens, said.usage.output_tokens, said.usage.total_tokens) == (5, 8, 13)


def test_an_answer_that_has_ended_is_complete(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    with gateway_world.saying("Rome."):
        said = client.responses.create(model="tiny", input="hello")
    (message,) = said.output
    assert (said.output_text, said.status, said.incomplete_details) == ("Rome.", "completed", None)
    assert (message.type, message.status, said.completed_at is not None) == ("message", "completed", True)


def test_a_conversation_of_items(client: openai.OpenAI) -> None:
    """Its letters are counted: what was said, by whomever, in all forms that a message has."""
    first = client.responses.create(model="tiny", input="abc", max_output_tokens=4)
    items: list[Any] = [
        {"role": "developer", "content": "de"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "fg"}]},
        *(item.model_dump() for item in first.output),
    ]
    said = client.responses.create(model="tiny", instructions="hij", input=items, max_output_tokens=4)
    assert said.output_text == answer_text(3 + 2 + 2 + 4, 4)
    assert said.instructions == "hij"


def test_typed_events(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="hello", max_output_tokens=10) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer_text(5, 10)
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == answer_text(5, 10)


def test_the_client_puts_a_stream_together(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    with gateway_world.saying("All roads lead to Rome."):
        with client.responses.stream(model="tiny", input="hello") as stream:
            final = stream.get_final_response()
        (event,) = [
            event for event in client.responses.create(model="tiny", input="hello", stream=True)
            if event.type == "response.completed"
        ]  # fmt: skip
    assert final.output_text == event.response.output_text == "All roads lead to Rome."
    assert final.usage == event.response.usage


def test_calls_of_tools(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    question: list[Any] = [{"role": "user", "content": "weather in Rome?"}]
    with gateway_world.saying(f"I look. {CALL}"):
        asked = client.responses.create(model="tiny", input=question, tools=[WEATHER])
        with client.responses.stream(model="tiny", input=question, tools=[WEATHER]) as stream:
            kinds = [event.type for event in stream if "function_call" in event.type or "item.done" in event.type]
            streamed = stream.get_final_response()
    message, call = asked.output
    assert (message.type, asked.output_text) == ("message", "I look. ")
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments), call.status) == ("weather", {"city": "Rome"}, "completed")
    assert [tool.type for tool in asked.tools] == ["function"]
    assert kinds == [
        "response.output_item.done", "response.function_call_arguments.delta",
        "response.function_call_arguments.done", "response.output_item.done",
    ]  # fmt: skip
    assert [item.type for item in streamed.output] == ["message", "function_call"]

    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    turns = [*question, *(item.model_dump(exclude_none=True) for item in asked.output), result]
    told = client.responses.create(model="tiny", input=turns, tools=[WEATHER], max_output_tokens=4)
    assert told.output_text == answer_text(len("weather in Rome?I look. sunny"), 4)


def test_tools_that_are_not_offered_are_not_called(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    with gateway_world.saying(CALL):
        said = client.responses.create(model="tiny", input="hello", tools=[WEATHER], tool_choice="none")
    assert said.output_text == CALL


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "input.0.role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "a"}]}, "input.0.call_id"),
        ({"temperature": -1}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a"),
        ({"metadata": {"a": "\ud800"}}, "metadata.a"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_wrong_field_is_named(root: str, wrong: dict[str, Any], field: str) -> None:
    response = post(root, **wrong)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (422, "invalid_request_error"), error
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")


def test_nothing_is_stored(root: str) -> None:
    said = post(root, store=True, max_output_tokens=2).json()
    assert said["store"] is False
    assert httpx.get(f"{root}/v1/responses/{said['id']}").status_code == 404


@pytest.mark.parametrize("streams", [False, True])
def test_a_prompt_longer_than_the_context(client: openai.OpenAI, streams: bool) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input="a" * 300, stream=streams)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.usefixtures("endless")
def test_a_stream_that_fails_says_so_in_its_last_event(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    stream = client.responses.create(
        model="tiny", input="hello", max_output_tokens=40, stream=True, extra_body={"patience_s": 1}
    )
    next(event for event in stream if event.type == "response.output_text.delta")
    gateway_world.end_service()
    try:
        *_, last = stream
    finally:
        gateway_world.serve()
    assert last.type == "response.failed"
    assert last.response.error
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")
    assert "no orchestrator answers" in last.response.error.message


@pytest.mark.usefixtures("endless")
def test_an_answer_ends_when_its_reader_hangs_up(gateway_world: GatewayWorld, client: openai.OpenAI) -> None:
    with client.responses.create(model="tiny", input="hello", max_output_tokens=40, stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
        assert gateway_world.operator.status().open_requests == 1
    gateway_world.until_nothing_is_open()
