"""Write ``docs/asyncapi.json`` from the topics, messages and examples: ``python -m schemas.write_asyncapi``.

AsyncAPI 3, as the orchestrator sees it: it receives what others send. A test fails when the file and the table differ.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from schemas import PACKAGE_VERSION, topics
from schemas.registry import name_of
from schemas.topics import TOPICS, Topic
from schemas.write_json_schemas import JSON_DIR

ASYNCAPI = Path(__file__).parents[1] / "docs" / "asyncapi.json"
EXAMPLES_DIR = JSON_DIR.parent / "examples" / "good"

_RECEIVED = (
    topics.NODE_BIRTH,
    topics.NODE_STATUS,
    topics.NODE_HEARTBEAT,
    topics.NODE_REPLY,
    topics.TOKEN,
    topics.REQUEST_SUBMIT,
    topics.REQUEST_CANCEL,
    topics.REQUEST_RENEW,
    topics.CLIENT_WILL,
    topics.CONTROL_SUBMIT,
    topics.HOME_COMMAND,
)
_AMONG_NODES = (topics.NODE_ECHO, topics.SEGMENT)
"""Nobody else has to do with them."""
_REPLIES = {
    topics.REQUEST_SUBMIT: topics.REQUEST_STREAM,
    topics.CONTROL_SUBMIT: topics.CONTROL_REPLY,
    topics.HOME_COMMAND: topics.HOME_REPLY,
}
_FRAME = "frame"
_PARAMETERS = {
    "node": "A node's name.",
    "pipeline": "The service's name, main unless another was chosen; of nodes' topics a pipeline's.",
    "epoch": "Version of a plan: generation and counter, such as 7-2.",
    "stage": "Position in the ring.",
    "sender": "The node that speaks.",
    "receiver": "The node that reads.",
    "client": "Who asks: a member's name.",
    "request": "16 hexadecimal digits, chosen at random by who asks.",
    "label": "Chosen by who asks.",
}
_DESCRIPTION = """\
Language models on several small devices, over MQTT. Messages are JSON objects with their name in "type" and the \
schema's version in "v"; a member that is not known is refused. Whoever asks with a response topic of MQTT 5, one of \
linguabus/v1/response/{client}/{label}, has the whole answer there in one message, with the correlation data that came \
with the question; answers to commands may go to linguabus/v1/control/{client}/{request}/reply as well. Who may use \
which topic: docs/security.md."""


def document() -> dict[str, Any]:
    """The whole document."""
    names = {value: name.lower() for name, value in vars(topics).items() if isinstance(value, Topic)}
    carried = {name_of(cls) for topic in TOPICS for cls in topic.messages}
    schemas: dict[str, Any] = {}
    for name in sorted(carried):
        _add_schema(name, schemas)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "linguabus",
            "version": PACKAGE_VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "fleet": {
                "host": "{host}:8883",
                "protocol": "secure-mqtt",
                "protocolVersion": "5.0",
                "description": "A fleet's Mosquitto. Name and key are a member's; the authority is the fleet's own.",
                "variables": {"host": {"description": "Where the fleet's host is."}},
                "security": [{"$ref": "#/components/securitySchemes/member"}],
            }
        },
        "channels": {name: _channel(topic) for topic, name in names.items()},
        "operations": dict(_operation(topic, names) for topic in TOPICS if topic not in _AMONG_NODES),
        "components": {
            "messages": {**{name: _message(name, schemas[name]) for name in sorted(carried)}, _FRAME: _frame()},
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"member": {"type": "userPassword"}},
        },
    }


def _messages_of(topic: Topic) -> list[str]:
    return [name_of(cls) for cls in topic.messages] or [_FRAME]


def _channel(topic: Topic) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": topic.shown(),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _messages_of(topic)},
    }
    placeholders = re.findall(r"{(\w+)}", topic.pattern)
    if placeholders:
        channel["parameters"] = {name: {"description": _PARAMETERS[name]} for name in placeholders}
    return channel


def _operation(topic: Topic, names: dict[Topic, str]) -> tuple[str, dict[str, Any]]:
    name = names[topic]
    action = "receive" if topic in _RECEIVED else "send"
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in _messages_of(topic)],
        "bindings": {"mqtt": {"qos": topic.qos, "retain": topic.retain, "bindingVersion": "0.2.0"}},
    }
    if answered := _REPLIES.get(topic):
        operation["reply"] = {"channel": {"$ref": f"#/channels/{names[answered]}"}}
    return f"{action}_{name}", operation


def _message(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    found = sorted(path for path in EXAMPLES_DIR.glob("*.json") if path.stem.split("-")[0] == name)
    examples = [{"name": path.stem, "payload": json.loads(path.read_text("utf-8"))} for path in found]
    return {
        "name": name,
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": examples,
    }


def _frame() -> dict[str, Any]:
    return {
        "name": _FRAME,
        "title": "Frame",
        "summary": "A binary frame: header, payload, CRC; see schemas/codec.py.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }


def _add_schema(name: str, schemas: dict[str, Any]) -> None:
    """Add a message's schema, and those of its parts, which several messages share."""
    schema = json.loads((JSON_DIR / f"{name}.v1.json").read_text("utf-8"))
    for part, its in schema.pop("$defs", {}).items():
        schemas[part] = _older(its)
    del schema["$schema"], schema["$id"]
    schemas[name] = _older(schema)


def _older(schema: Any) -> Any:
    """A schema of JSON Schema 2020-12 in the words of draft 7, which AsyncAPI's own are."""
    if isinstance(schema, list):
        return [_older(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _older(value) for key, value in schema.items()}
    if isinstance(made.get("$ref"), str):
        made = {"$ref": made["$ref"].replace("#/$defs/", "#/components/schemas/")}
    if "prefixItems" in made:
        made["items"], made["additionalItems"] = made.pop("prefixItems"), False
    return made


def text() -> str:
    """The file."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    ASYNCAPI.write_text(text(), encoding="utf-8")
