"""The AsyncAPI document: up to date, whole, and its examples are what its schemas say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from schemas import write_asyncapi
from schemas.messages import MESSAGES
from schemas.topics import TOPICS

DOCUMENT: dict[str, Any] = json.loads(write_asyncapi.ASYNCAPI.read_text("utf-8"))
MESSAGES_WITH_SCHEMAS = {name: one for name, one in DOCUMENT["components"]["messages"].items() if name in MESSAGES}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from references(item)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref" and isinstance(value, str):
                yield value
            elif name != "examples":
                yield from references(value)


def at(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_the_file_is_what_the_topics_and_messages_say() -> None:
    assert write_asyncapi.ASYNCAPI.read_text("utf-8") == write_asyncapi.text(), "run python -m schemas.write_asyncapi"


def test_every_topic_is_a_channel_and_every_message_is_there() -> None:
    assert [channel["address"] for channel in DOCUMENT["channels"].values()] == [topic.shown() for topic in TOPICS]
    assert MESSAGES_WITH_SCHEMAS.keys() == MESSAGES.keys()


def test_every_reference_leads_somewhere() -> None:
    for reference in set(references(DOCUMENT)):
        assert at(reference)


@pytest.mark.parametrize("name", MESSAGES)
def test_examples_are_valid_and_others_are_not(name: str) -> None:
    message = MESSAGES_WITH_SCHEMAS[name]
    schema = {**DOCUMENT["components"]["schemas"][name], "components": DOCUMENT["components"]}
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    assert message["examples"]
    for example in message["examples"]:
        assert [error.message for error in validator.iter_errors(example["payload"])] == []
        assert not validator.is_valid({**example["payload"], "colour": "red"})
        assert not validator.is_valid({**example["payload"], "v": 2})


def test_rows_of_lists_keep_their_limits() -> None:
    """They are written in other words in draft 7."""
    pins = DOCUMENT["components"]["schemas"]["PlanConstraints"]["properties"]["pins"]
    validator = jsonschema.Draft7Validator(pins)
    assert validator.is_valid([["embed", "a"]])
    assert not validator.is_valid([["embed", "a", "b"]])
    assert not validator.is_valid([["embed", 1]])
