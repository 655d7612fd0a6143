"""Turns and tools as chat templates of transformers take them (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas import json_text
from schemas.errors import LinguabusError
from schemas.limits import MAX_TOOL_DEPTH, MAX_TOOLS_CHARACTERS
from schemas.messages import ChatMessage, Tool


class BadTools(LinguabusError):
    """A tool or a call can't be told to a model; the text names the member, and has nothing of what is in it."""


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The turns, calls with their arguments as objects.

    Raises:
        BadTools: the arguments of a call are no JSON object.
    """
    turns = []
    for number, message in enumerate(messages):
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.name is not None:
            turn["name"] = message.name
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            turn["tool_calls"] = [
                _call(call.id, call.name, _object(call.arguments, f"messages[{number}].tool_calls[{place}].arguments"))
                for place, call in enumerate(message.tool_calls)
            ]
        turns.append(turn)
    return turns


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools, their parameters as objects.

    Raises:
        BadTools: the parameters of one are no JSON object, two have one name, or they are too long together.
    """
    length = sum(len(tool.description) + len(tool.parameters) for tool in tools)
    if length > MAX_TOOLS_CHARACTERS:
        raise BadTools(f"tools have {length} characters together, allowed are {MAX_TOOLS_CHARACTERS}")
    names = [tool.name for tool in tools]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise BadTools(f"tools[{number}].name: there is another tool of this name")
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": _object(tool.parameters, f"tools[{number}].parameters"),
            },
        }
        for number, tool in enumerate(tools)
    ]


def _call(call_id: str | None, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call if call_id is None else {"id": call_id, **call}


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json_text.read(text)
        is_too_deep = json_text.depth(value) > MAX_TOOL_DEPTH
    except RecursionError:
        is_too_deep = True
    except ValueError:
        raise BadTools(f"{place}: is no JSON") from None
    if is_too_deep:
        raise BadTools(f"{place}: objects and arrays go deeper than {MAX_TOOL_DEPTH}")
    if not isinstance(value, dict):
        raise BadTools(f"{place}: must be a JSON object")
    return value
