"""The command line ``llm`` and LangChain's ChatOpenAI hold conversations with the gateway, in both of OpenAI's ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway_world import GatewayWorld, langchain_client
from tests.support.llm_command import LlmCommand
from tests.support.scripted_nodes import answer_text

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

WAYS = ("chat", "responses")
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture(params=WAYS)
def llm(request: pytest.FixtureRequest, root: str, tmp_path: Path) -> LlmCommand:
    return LlmCommand(tmp_path, root, request.param)


@pytest.fixture(params=WAYS)
def langchain(request: pytest.FixtureRequest, root: str) -> ChatOpenAI:
    return langchain_client(root, request.param)


def test_llm_goes_on_with_a_conversation(llm: LlmCommand) -> None:
    first = answer_text(5, 8)
    assert llm("hello", "-o", "max_tokens", "8").rstrip("\n") == first
    second = llm("--continue", "--no-stream", "abc", "-o", "max_tokens", "8").rstrip("\n")
    assert second == answer_text(len("hello") + len(first) + len("abc"), 8)


def test_llm_calls_a_function(gateway_world: GatewayWorld, llm: LlmCommand) -> None:
    """The model asks for it over and over here, and the command stops at its limit: the first call has its result."""
    weather = "def weather(city: str) -> str:\n    return 'sunny in ' + city\n"
    with gateway_world.saying(CALL):
        done = llm.run("--functions", weather, "--tools-debug", "--chain-limit", "2", "hello")
    assert "weather({'city': 'Rome'})" in done.stderr
    assert "sunny in Rome" in done.stderr


def test_langchain_goes_on_with_a_conversation(langchain: ChatOpenAI) -> None:
    turns: list[Any] = [("human", "hello")]
    first = langchain.invoke(turns, max_tokens=8)
    assert first.text == answer_text(5, 8)
    assert first.usage_metadata
    assert first.usage_metadata["output_tokens"] == 8
    turns += [first, ("human", "abc")]
    pieces = [piece.text for piece in langchain.stream(turns, max_tokens=8)]
    assert len(pieces) > 2
    assert "".join(pieces) == answer_text(len("hello") + 8 + len("abc"), 8)


def test_langchain_calls_a_tool(gateway_world: GatewayWorld, langchain: ChatOpenAI) -> None:
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    turns: list[Any] = [("human", "hello")]
    with_tools = langchain.bind_tools([weather])
    with gateway_world.saying(CALL):
        asked: Any = with_tools.invoke(turns)
        streamed: Any = None
        for piece in with_tools.stream(turns):
            streamed = piece if streamed is None else streamed + piece
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Rome"})
    assert [(one["name"], one["args"]) for one in streamed.tool_calls] == [("weather", {"city": "Rome"})]
    from langchain_core.messages import ToolMessage

    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    told = with_tools.invoke([*turns, asked, result], max_tokens=8)
    assert told.text == answer_text(len("hellosunny in Rome"), 8)
