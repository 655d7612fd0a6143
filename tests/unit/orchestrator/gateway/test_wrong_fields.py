"""Which field of a request is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from orchestrator.gateway.openai_requests import ChatRequest
from orchestrator.gateway.response_requests import ResponseRequest
from orchestrator.gateway.wrong_fields import in_words, wrong_field


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (ChatRequest, {}, "messages"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        (ChatRequest, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (ResponseRequest, {"input": [{"type": "function_call", "call_id": "c"}]}, "input.0.name"),
        (ResponseRequest, {"input": [5]}, "input.0"),
        (ResponseRequest, {"input": [{"role": "user", "content": "a"}, {"type": "x"}]}, "input.1"),
        (ResponseRequest, [], ""),
    ],
)
def test_the_deepest_place_that_is_there(kind: Any, body: Any, field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(kind).validate_python(body)
    errors = [error | {"loc": ("body", *error["loc"])} for error in raised.value.errors()]
    assert wrong_field(RequestValidationError(errors).errors(), body)[0] == field


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"logit_bias": {"5": 1.0}}, "this can't be set here: leave it out"),
        ({"messages": []}, "it may not be empty"),
        ({"stop": ["a"] * 17}, "it has 17 entries, 16 are the most"),
        ({"temperature": float("nan")}, "NaN is not a number"),
        ({"temperature": 900}, "Input should be less than or equal to 100"),
    ],
)
def test_what_is_wrong_is_told_for_people(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(ChatRequest).validate_python({"messages": [{"role": "user", "content": "a"}]} | wrong)
    assert words in [in_words(dict(error)) for error in raised.value.errors()]


def test_a_wrong_part_of_the_address() -> None:
    error = {"loc": ("path", "model"), "type": "string_too_long", "msg": "too long"}
    assert wrong_field([error], None) == ("model", error)
