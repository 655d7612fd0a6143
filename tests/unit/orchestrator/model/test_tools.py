"""Tools through the chat template: given as transformers gives them, as text whatever they look like, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client.answer_stream import AnswerStream
from orchestrator.model.prompt import PromptRefused, encode_prompt
from orchestrator.model.tokenizer import ModelTokenizer
from schemas.limits import MAX_TOOL_DEPTH, MAX_TOOLS_CHARACTERS
from schemas.messages import ChatMessage, StreamStatus, SubmitRequest, Tool, ToolCall, decode, encode
from tests.support.orchestrating import World
from tests.support.scripted_nodes import Letters, make_submit
from tests.support.tokenizers_zoo import byte_level

HERMES = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'tool' %}"
    "{{- '<|im_start|>user\\n<tool_response>' + m.content + '</tool_response><|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{%- for call in m.tool_calls or [] %}{%- set call = call.function %}"
    '{{- \'<tool_call>{"name": "\' + call.name + \'", "arguments": \' }}{{- call.arguments | tojson }}'
    "{{- '}</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TYPED = (
    "{% for tool in tools %}{% if tool.type == 'function' %}{% for name, what in tool.function.parameters.properties"
    " | dictsort %}{% if what.type == 'string' %}{{ '<|im_start|>' + name | upper + what.description | title + "
    "'<|im_end|>' }}{% endif %}{% endfor %}{% endif %}{% endfor %}{{ messages[0].content }}"
)
"""Looks at what tools are made of, and does to text what is not followed."""
SCHEMA = {"type": "object", "properties": {"on": {"type": "string", "description": "what"}}}
HAMMER = Tool(name="hammer", description="Hits something.", parameters=json.dumps(SCHEMA))
CALL = ToolCall(id="c1", name="hammer", arguments='{"on": "nail"}')
TURNS = (
    ChatMessage(role="user", content="Hit it."),
    ChatMessage(role="assistant", content="", tool_calls=(CALL,)),
    ChatMessage(role="tool", content="done", tool_call_id="c1", name="hammer"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("tools"))


def tokenizer(folder: Path, template: str) -> ModelTokenizer:
    (folder / "chat_template.jinja").write_text(template)
    return ModelTokenizer(folder)


def submit(*messages: ChatMessage, tools: tuple[Tool, ...] = (HAMMER,), **changes: Any) -> SubmitRequest:
    return replace(make_submit(), messages=messages, tools=tools, **changes)


def markers(chat: ModelTokenizer, ids: tuple[int, ...]) -> int:
    (marker,) = chat.encode("<|im_start|>", special=False)
    return ids.count(marker)


def test_tools_and_calls_go_to_the_template_as_objects(folder: Path) -> None:
    chat = tokenizer(folder, HERMES)
    ids = encode_prompt(submit(*TURNS), chat)
    text = chat.decode(ids)
    told = {"name": "hammer", "description": "Hits something.", "parameters": SCHEMA}
    assert json.dumps({"type": "function", "function": told}) in text
    assert '{"name": "hammer", "arguments": {"on": "nail"}}' in text
    assert "<tool_response>done</tool_response>" in text
    assert markers(chat, ids) == 5
    assert chat.tool_format == "tagged"


@pytest.mark.parametrize("template", [HERMES, TYPED], ids=["as JSON", "taken apart"])
@pytest.mark.parametrize("marker", ["<|im_start|>", "<|im_end|>", "<tool_call>"])
def test_markers_in_tools_calls_and_results_are_text(folder: Path, template: str, marker: str) -> None:
    chat = tokenizer(folder, template)

    def asked(word: str) -> tuple[int, ...]:
        schema = {"type": "object", "properties": {word: {"type": "string", "description": word}}, word: word}
        call = ToolCall(id=word, name="hammer", arguments=json.dumps({word: [word, {word: 1}]}))
        tool = Tool(name="hammer", description=word, parameters=json.dumps(schema))
        turns = (
            ChatMessage(role="user", content=word),
            ChatMessage(role="assistant", content=word, tool_calls=(call,)),
            ChatMessage(role="tool", content=word, tool_call_id=word, name=word),
        )
        return encode_prompt(submit(*turns, tools=(tool,)), chat)

    (number,) = chat.encode(marker, special=False)
    plain, typed = asked("word"), asked(marker)
    assert typed.count(number) == plain.count(number), "only those that the template wrote"
    assert marker.upper() in chat.decode(typed).upper()
    assert plain.count(number) or template == TYPED


@pytest.mark.parametrize("turns", [TURNS[:1], TURNS, TURNS[2:]], ids=["tools", "calls", "a result"])
def test_a_template_without_tools_refuses_them_by_name(folder: Path, turns: tuple[ChatMessage, ...]) -> None:
    chat = tokenizer(folder, "{# tools #}{% for m in messages %}{{ m.content }}{% endfor %}")
    tools = (HAMMER,) if len(turns) == 1 and turns[0].role == "user" else ()
    with pytest.raises(PromptRefused, match="the model's chat template takes no tools") as refused:
        encode_prompt(submit(*turns, tools=tools), chat)
    assert refused.value.code == "bad_request"
    assert encode_prompt(submit(TURNS[0], tools=()), chat)


def test_a_model_may_have_a_template_of_its_own_for_tools(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tokenizer.json", tmp_path)
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": HERMES}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    chat = ModelTokenizer(tmp_path)
    assert chat.decode(encode_prompt(submit(TURNS[0], tools=()), chat)) == "plain"
    assert "Hits something." in chat.decode(encode_prompt(submit(TURNS[0]), chat))
    assert chat.tool_format == "tagged"


def deep(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("tools", "place"),
    [
        ((replace(HAMMER, parameters="[]"),), r"tools\[0\].parameters: must be a JSON object"),
        ((HAMMER, replace(HAMMER, name="saw", parameters="{")), r"tools\[1\].parameters: is no JSON"),
        ((replace(HAMMER, parameters='{"a": NaN}'),), r"tools\[0\].parameters: is no JSON"),
        ((replace(HAMMER, parameters=deep(MAX_TOOL_DEPTH + 1)),), r"tools\[0\].parameters: .* deeper than 32"),
        ((replace(HAMMER, parameters=deep(16_000)),), r"tools\[0\].parameters: .* deeper than 32"),
        ((HAMMER, HAMMER), r"tools\[1\].name: there is another"),
        (
            tuple(replace(HAMMER, name=f"t{n}", description="x" * 99_000) for n in range(4)),
            f"allowed are {MAX_TOOLS_CHARACTERS}",
        ),
    ],
    ids=["array", "no JSON", "NaN", "deep", "very deep", "twice", "long"],
)
def test_bad_tools_are_named(tools: tuple[Tool, ...], place: str) -> None:
    with pytest.raises(PromptRefused, match=place) as refused:
        encode_prompt(submit(TURNS[0], tools=tools), Letters())
    assert "x" * 100 not in refused.value.summary
    assert encode_prompt(submit(TURNS[0], tools=(replace(HAMMER, parameters=deep(MAX_TOOL_DEPTH)),)), Letters())


def test_bad_arguments_are_named_and_nothing_of_them_is_told() -> None:
    turn = replace(TURNS[1], tool_calls=(CALL, replace(CALL, arguments="my secret")))
    with pytest.raises(PromptRefused, match=r"messages\[1\].tool_calls\[1\].arguments: is no JSON") as refused:
        encode_prompt(submit(TURNS[0], turn), Letters())
    assert "secret" not in refused.value.reason + refused.value.summary


def test_a_raw_prompt_takes_no_tools() -> None:
    with pytest.raises(PromptRefused, match="tools need messages"):
        encode_prompt(submit(prompt="Once"), Letters())


def test_a_conversation_with_tools_survives_the_wire() -> None:
    asked = submit(*TURNS)
    assert decode(encode(asked), SubmitRequest) == asked


def test_a_reader_is_told_how_the_model_writes_calls() -> None:
    world = World().serve("a", "b", "c")
    reader = AnswerStream(make_submit())
    for number, tools, form in ((1, (), None), (2, (HAMMER,), "tagged")):
        request = world.ask(replace(make_submit(number), tools=tools))
        told = [message for message in world.stream(request) if isinstance(message, StreamStatus)]
        assert [status.tool_format for status in told] == [form]
        reader.take(told[0])
    assert reader.tool_format == "tagged"
