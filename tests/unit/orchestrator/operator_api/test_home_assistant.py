"""What Home Assistant is told, against the rules that it has published for device-based discovery."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.operator_api.home_assistant import config_topic, device_id, fleet_device, node_device
from schemas.messages import DrainNode, HomeFleet, HomeNode, UseModel, decode, encode
from schemas.topics import HOME_COMMAND, HOME_FLEET, HOME_NODE

PHONE = HomeNode(
    node="phone",
    state="online",
    drained=False,
    layers="blocks 0-15",
    tokens_per_s=12.4,
    battery_percent=87,
    charging=False,
    temperature_c=31,
)
BOARD = HomeNode(
    node="pi",
    state="offline",
    drained=True,
    layers="",
    tokens_per_s=0,
    battery_percent=None,
    charging=None,
    temperature_c=None,
)
FLEET = HomeFleet(
    pipeline="main", state="serving", model="smollm2", nodes=2, tokens_per_s=12.4, open_requests=1, queued_requests=0
)
DOCUMENTS = {
    "fleet": fleet_device("main", ["smollm2", "qwen"], has_door=True),
    "phone": node_device("main", PHONE),
    "pi": node_device("main", BOARD),
}
EVERY_DOCUMENT = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)

DISCOVERY_TOPIC = re.compile(r"\w+/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
"""Home Assistant's: what does not match is not looked at."""
OF_ALL = {"name", "unique_id", "platform", "availability", "availability_mode", "entity_category", "icon"}
ALLOWED = {
    "sensor": {
        "state_topic", "value_template", "device_class", "state_class", "unit_of_measurement", "options",
    },
    "binary_sensor": {"state_topic", "value_template", "device_class"},
    "button": {"command_topic", "payload_press"},
    "select": {"state_topic", "value_template", "command_topic", "command_template", "options"},
}  # fmt: skip
NEEDED = {
    "sensor": {"state_topic"},
    "binary_sensor": {"state_topic"},
    "button": {"command_topic"},
    "select": {"command_topic", "options"},
}
UNITS = {"battery": "%", "temperature": "°C"}


def rendered(template: str, **values: Any) -> str:
    """As Home Assistant renders a template of values."""
    environment = ImmutableSandboxedEnvironment()
    environment.filters["tojson"] = json.dumps
    return environment.from_string(template).render(**values)


def shown(document: dict[str, Any], entity: str, message: object) -> str:
    return rendered(document["components"][entity]["value_template"], value_json=json.loads(encode(message)))


@EVERY_DOCUMENT
def test_a_device_says_what_device_based_discovery_wants(document: dict[str, Any]) -> None:
    assert set(document) == {"device", "origin", "qos", "components"}
    assert document["device"]["identifiers"]
    assert document["origin"]["name"] == "linguabus"
    json.dumps(document)


@EVERY_DOCUMENT
def test_every_entity_has_what_its_platform_needs_and_nothing_that_it_does_not_know(document: dict[str, Any]) -> None:
    for part in document["components"].values():
        platform = part["platform"]
        assert NEEDED[platform] <= set(part) <= OF_ALL | ALLOWED[platform]
        assert part.get("unit_of_measurement") == UNITS.get(part.get("device_class"), part.get("unit_of_measurement"))
        if part.get("device_class") == "enum":
            assert "options" in part
            assert not {"state_class", "unit_of_measurement"} & set(part)
        for option in part["availability"]:
            assert set(option) <= {"topic", "value_template", "payload_available", "payload_not_available"}


def test_ids_of_entities_and_devices_are_distinct() -> None:
    ids = [part["unique_id"] for document in DOCUMENTS.values() for part in document["components"].values()]
    assert len(set(ids)) == len(ids)


def test_no_two_names_have_one_id_and_home_assistant_can_read_each() -> None:
    names = ["a", "a.b", "a_b", "a_db", "a__b", "a-b", "a_n_b", "a.n.b", "n", "A"]
    devices = [device_id(pipeline, node) for pipeline, node in itertools.product(names, ["", *names])]
    assert len(set(devices)) == len(devices)
    assert all(DISCOVERY_TOPIC.fullmatch(config_topic("", device).lstrip("/")) for device in devices)


def test_a_phone_has_what_it_measures_and_a_board_what_it_has() -> None:
    measured = {"battery_percent", "charging", "temperature_c"}
    assert measured <= DOCUMENTS["phone"]["components"].keys()
    assert measured.isdisjoint(DOCUMENTS["pi"]["components"])
    assert "temperature_c" in node_device("main", BOARD, frozenset({"temperature_c"}))["components"]


def test_what_is_shown_is_what_was_said() -> None:
    phone, pi, fleet = DOCUMENTS["phone"], DOCUMENTS["pi"], DOCUMENTS["fleet"]
    assert [shown(phone, name, PHONE) for name in ("state", "battery_percent", "charging", "drained", "layers")] == [
        "online",
        "87",
        "OFF",
        "OFF",
        "blocks 0-15",
    ]
    assert shown(phone, "battery_percent", BOARD) == "None"  # which Home Assistant shows as unknown
    assert shown(phone, "charging", BOARD) == "None"
    assert shown(pi, "drained", BOARD) == "ON"
    assert shown(fleet, "model", FLEET) == "smollm2"
    assert shown(fleet, "tokens_per_s", FLEET) == "12.4"


def test_a_figure_is_there_as_long_as_its_node_is() -> None:
    orchestrator, node = DOCUMENTS["phone"]["components"]["battery_percent"]["availability"]
    assert node["topic"] == HOME_NODE.format(pipeline="main", node="phone")
    assert [rendered(node["value_template"], value_json=json.loads(encode(one))) for one in (PHONE, BOARD)] == [
        "online",
        "offline",
    ]
    assert (orchestrator["payload_available"], orchestrator["payload_not_available"]) == ("here", "gone")


def test_buttons_and_the_choice_of_a_model_say_what_the_orchestrator_reads() -> None:
    phone, fleet = DOCUMENTS["phone"]["components"], DOCUMENTS["fleet"]["components"]
    pressed = [decode(phone[name]["payload_press"].encode(), DrainNode) for name in ("drain", "restore")]
    assert pressed == [DrainNode(node="phone"), DrainNode(node="phone", undo=True)]
    chosen = rendered(fleet["model"]["command_template"], value="qwen")
    assert decode(chosen.encode(), UseModel) == UseModel(model="qwen")
    topics = {phone["drain"]["command_topic"], phone["restore"]["command_topic"], fleet["model"]["command_topic"]}
    assert topics == {HOME_COMMAND.format(pipeline="main")}
    assert fleet["model"]["state_topic"] == HOME_FLEET.format(pipeline="main")


def test_a_fleet_without_models_or_a_door_has_neither() -> None:
    assert {"model", "door"}.isdisjoint(fleet_device("main", [], has_door=False)["components"])


def test_a_node_is_called_what_people_call_it_and_stays_the_same_device() -> None:
    renamed = node_device("main", replace(PHONE, label="Anna's phone"))["device"]
    assert renamed == {**node_device("main", PHONE)["device"], "name": "Anna's phone"}
