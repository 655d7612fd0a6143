"""Tells Home Assistant of a fleet: discovery, once and whenever it has started; states, when they change."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from broker.bus import Bus, Delivery
from orchestrator.control_plane import ControlPlane
from orchestrator.operator_api.home_assistant import (
    config_topic,
    device_id,
    fleet_device,
    measured_of,
    node_device,
    status_topic,
)
from orchestrator.operator_api.home_states import home_states
from schemas import json_text
from schemas.messages import HomeNode, encode
from schemas.topics import HOME_COMMAND, HOME_FLEET, HOME_NODE

LOOK_S = 5.0
"""States are told so often at most; what has not changed is not told."""
_LOOKS_UNTIL_FOUND = 2
"""What the broker keeps has come by then."""
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


def is_prefix(text: str) -> bool:
    """Can this stand before the topics of discovery, and apart from those of linguabus?"""
    return len(text) <= 100 and _PREFIX.fullmatch(text) is not None and text.split("/")[0] != "linguabus"


class HomeTeller:
    """A `Teller`."""

    def __init__(
        self,
        bus: Bus,
        prefix: str,
        plane: ControlPlane,
        *,
        models: Callable[[], Sequence[str]],
        is_member: Callable[[str], bool],
        has_door: bool,
        look_s: float = LOOK_S,
    ) -> None:
        """``models``: those that can be served. ``is_member``: may a node of this name be here?"""
        self._bus = bus
        self._prefix = prefix
        self._plane = plane
        self._models = models
        self._is_member = is_member
        self._has_door = has_door
        self._look_s = look_s
        self._due_s = 0.0
        self._told: dict[str, bytes] = {}
        """What is stored on each topic, as far as it was told by this start."""
        self._measured: dict[str, frozenset[str]] = {}
        """By node: the figures it has had."""
        self._found: set[str] = set()
        """Nodes whose states are stored."""
        self._looks = 0

    def begin(self) -> None:
        """Listen for Home Assistant's start, for its commands, and for what an earlier start has left."""
        self._bus.subscribe(
            [status_topic(self._prefix), HOME_COMMAND.filter(pipeline=self._plane.name)], qos=1, stored=False
        )
        self._bus.subscribe([HOME_NODE.filter(pipeline=self._plane.name)], qos=1)

    def take(self, delivery: Delivery) -> bool:
        """Tell everything again when Home Assistant has started; remember what is there."""
        if delivery.topic == status_topic(self._prefix):
            if delivery.payload == b"online":
                self.again()
            return True
        place = HOME_NODE.match(delivery.topic)
        if place and delivery.payload:
            self._found.add(place["node"])
        return place is not None

    def look(self, now_s: float) -> None:
        """Tell what has changed."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._look_s
        pipeline = self._plane.name
        fleet, nodes = home_states(self._plane, now_s)
        self._announce(device_id(pipeline), fleet_device(pipeline, self._models(), has_door=self._has_door))
        self._tell(HOME_FLEET.format(pipeline=pipeline), encode(fleet))
        for node in nodes:
            self._tell_node(node)
        self._looks += 1
        if self._looks < _LOOKS_UNTIL_FOUND:
            return
        if self._looks == _LOOKS_UNTIL_FOUND:
            self._bus.unsubscribe([HOME_NODE.filter(pipeline=pipeline)])  # what follows there is its own
        for gone in self._found - {node.node for node in nodes}:
            if gone in self._measured or not self._is_member(gone):
                self._remove(gone)

    def _tell_node(self, node: HomeNode) -> None:
        pipeline, name = self._plane.name, node.node
        measured = self._measured.get(name, frozenset()) | measured_of(node)
        self._announce(device_id(pipeline, name), node_device(pipeline, node, measured))
        self._tell(HOME_NODE.format(pipeline=pipeline, node=name), encode(node))
        self._measured[name] = measured
        self._found.add(name)

    def _remove(self, node: str) -> None:
        """An empty message on the topic of its discovery removes a device."""
        pipeline = self._plane.name
        topics = (config_topic(self._prefix, device_id(pipeline, node)), HOME_NODE.format(pipeline=pipeline, node=node))
        for topic in topics:
            self._bus.publish(topic, b"", qos=1, retain=True)
            self._told.pop(topic, None)
        self._measured.pop(node, None)
        self._found.discard(node)

    def _announce(self, device: str, document: dict[str, object]) -> None:
        self._tell(config_topic(self._prefix, device), json_text.compact(document).encode())

    def _tell(self, topic: str, payload: bytes) -> None:
        if self._told.get(topic) != payload:
            self._bus.publish(topic, payload, qos=1, retain=True)
            self._told[topic] = payload

    def again(self) -> None:
        """Tell everything at the next look, which is now."""
        self._told.clear()
        self._due_s = 0.0

    def end(self) -> None:
        """That the orchestrator is gone says that nothing here is known any more."""
