"""Home Assistant's discovery: what it is told once of the fleet and of each node, so that it shows them (pure).

Device-based, as Home Assistant 2024.11 and newer read it: one retained message on ``PREFIX/device/ID/config`` for each
device, with all its entities. What they show and do is on the topics of the table (`schemas.topics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas import PACKAGE_VERSION
from schemas.messages import DrainNode, HomeNode, encode
from schemas.topics import DOOR, HOME_COMMAND, HOME_FLEET, HOME_NODE, ORCHESTRATOR_STATUS

Payload = dict[str, Any]

NODE_STATES = ["online", "silent", "offline", "refused"]
_ORIGIN = {"name": "linguabus", "sw_version": PACKAGE_VERSION}
_RATE = {"unit_of_measurement": "tokens/s", "state_class": "measurement", "icon": "mdi:speedometer"}
_COUNT = {"state_class": "measurement"}
_DIAGNOSTIC = {"entity_category": "diagnostic"}


def device_id(pipeline: str, node: str = "") -> str:
    """The id of the fleet or of a node: letters, digits, ``-`` and ``_``, and no two names have the same."""
    return f"linguabus-{_escaped(pipeline)}" + (f"_n_{_escaped(node)}" if node else "")


def _escaped(name: str) -> str:
    return name.replace("_", "__").replace(".", "_d")


def config_topic(prefix: str, device: str) -> str:
    """Where a device is announced."""
    return f"{prefix}/device/{device}/config"


def status_topic(prefix: str) -> str:
    """Where Home Assistant says that it has started."""
    return f"{prefix}/status"


def fleet_device(pipeline: str, models: Sequence[str], *, has_door: bool) -> Payload:
    """The fleet; ``models``: those it can change over to. ``has_door``: devices join it by invitation."""
    device = device_id(pipeline)
    state = HOME_FLEET.format(pipeline=pipeline)
    parts: Payload = {
        "state": _sensor("State", "state", icon="mdi:state-machine"),
        "tokens_per_s": _sensor("Speed", "tokens_per_s", **_RATE),
        "nodes": _sensor("Nodes", "nodes", icon="mdi:lan", **_COUNT),
        "open_requests": _sensor("Open requests", "open_requests", icon="mdi:message-processing", **_COUNT),
        "queued_requests": _sensor("Waiting requests", "queued_requests", icon="mdi:tray-full", **_COUNT),
    }
    if models:
        parts["model"] = {
            "platform": "select",
            "name": "Model",
            "icon": "mdi:brain",
            "options": list(models),
            "value_template": "{{ value_json.model }}",
            "command_topic": HOME_COMMAND.format(pipeline=pipeline),
            "command_template": '{"type": "control.use_model", "v": 1, "model": {{ value | tojson }}}',
        }
    if has_door:
        parts["door"] = {
            "platform": "binary_sensor",
            "name": "Devices may join",
            "icon": "mdi:door",
            "state_topic": DOOR.format(pipeline=pipeline),
            "value_template": "{{ 'ON' if value_json.open else 'OFF' }}",
            **_DIAGNOSTIC,
        }
    name = "linguabus" if pipeline == "main" else f"linguabus {pipeline}"
    about = {"identifiers": [device], "name": name, "manufacturer": "linguabus", "model": "fleet"}
    return _document({**about, "sw_version": PACKAGE_VERSION}, parts, state, [_serves(pipeline)])


def node_device(pipeline: str, node: HomeNode, known: frozenset[str] = frozenset()) -> Payload:
    """A node; ``known``: entities that it has had before, and keeps while a figure is missing."""
    device = device_id(pipeline, node.node)
    state, command = HOME_NODE.format(pipeline=pipeline, node=node.node), HOME_COMMAND.format(pipeline=pipeline)
    here = {
        "availability_mode": "all",
        "availability": [
            _serves(pipeline),
            {
                "topic": state,
                "value_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            },
        ],
    }
    parts: Payload = {
        "state": _sensor("State", "state", device_class="enum", options=NODE_STATES),
        "layers": _sensor("Layers", "layers", icon="mdi:layers", **_DIAGNOSTIC),
        "tokens_per_s": _sensor("Speed", "tokens_per_s", **_RATE, **here),
        "drain": _button("Drain", command, DrainNode(node=node.node), "mdi:pause-circle-outline"),
        "restore": _button("Use again", command, DrainNode(node=node.node, undo=True), "mdi:play-circle-outline"),
        "drained": _yes_or_no("Drained", "drained", icon="mdi:pause-circle"),
    }
    measured = {
        "battery_percent": _sensor(
            "Battery", "battery_percent", device_class="battery", unit_of_measurement="%", **_COUNT, **here
        ),
        "charging": _yes_or_no("Charging", "charging", device_class="battery_charging", **here),
        "temperature_c": _sensor(
            "Temperature", "temperature_c", device_class="temperature", unit_of_measurement="°C", **_COUNT, **here
        ),
    }
    parts |= {name: part for name, part in measured.items() if name in known | measured_of(node)}
    about = {"identifiers": [device], "name": node.label or node.node, "manufacturer": "linguabus", "model": "node"}
    return _document({**about, "via_device": device_id(pipeline)}, parts, state, [_serves(pipeline)])


def measured_of(node: HomeNode) -> frozenset[str]:
    """The figures that a node has, of those that not every node has."""
    figures = ("battery_percent", "charging", "temperature_c")
    return frozenset(name for name in figures if getattr(node, name) is not None)


def _document(device: Payload, parts: Payload, state: str, availability: list[Payload]) -> Payload:
    """A device with its entities, each with an id of its own, the state's topic and what says that it is there."""
    common = {"state_topic": state, "availability": availability}
    taken = {"button": {"availability": availability}}
    (identifier,) = device["identifiers"]
    components = {
        name: {
            "unique_id": f"{identifier}_{name}",
            **taken.get(part["platform"], common),
            **part,
        }
        for name, part in parts.items()
    }
    return {"device": device, "origin": _ORIGIN, "qos": 1, "components": components}


def _serves(pipeline: str) -> Payload:
    """Is the orchestrator there? Others that ask that on its topic change nothing."""
    return {
        "topic": ORCHESTRATOR_STATUS.format(pipeline=pipeline),
        "value_template": "{{ value_json.state }}",
        "payload_available": "here",
        "payload_not_available": "gone",
    }


def _sensor(name: str, member: str, **more: Any) -> Payload:
    return {"platform": "sensor", "name": name, "value_template": f"{{{{ value_json.{member} }}}}", **more}


def _yes_or_no(name: str, member: str, **more: Any) -> Payload:
    template = f"{{{{ {{true: 'ON', false: 'OFF'}}.get(value_json.{member}, 'None') }}}}"
    return {"platform": "binary_sensor", "name": name, "value_template": template, **more}


def _button(name: str, topic: str, press: DrainNode, icon: str) -> Payload:
    return {
        "platform": "button",
        "name": name,
        "icon": icon,
        "command_topic": topic,
        "payload_press": encode(press).decode(),
    }
