"""A fleet in Home Assistant: what the broker keeps for it, and what becomes of a press of a button."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.bus import Bus, Delivery
from broker.memory import MemoryBroker, MemoryBus
from broker.roles import RIGHTS
from broker.topic_filters import matches
from orchestrator.service.home_teller import HomeTeller
from orchestrator.service.tellers import DoorTeller
from schemas.messages import (
    DoorState,
    DrainNode,
    DrainReply,
    HomeFleet,
    HomeNode,
    OperatorRefusal,
    UseModel,
    decode,
    encode,
)
from schemas.topics import DOOR, HOME_COMMAND, HOME_FLEET, HOME_NODE, HOME_REPLY, TOPICS
from tests.support.polling import DEADLINE_S
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import make_birth
from tests.support.scripted_service import ScriptedService

COMMAND = HOME_COMMAND.format(pipeline="main")
REPLY = HOME_REPLY.format(pipeline="main")


def config_of(device: str) -> str:
    return f"homeassistant/device/{device}/config"


class Home:
    """Reads as Home Assistant does, with the rights that it has."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.kept: dict[str, bytes] = {}
        self.replies: list[object] = []
        bus.subscribe(["homeassistant/device/+/config", HOME_FLEET.filter(), HOME_NODE.filter(), REPLY], qos=1)

    def until(self, wanted: Callable[[], object]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not wanted():
            left_s = end_s - time.monotonic()
            assert left_s > 0, f"it did not come: {self.kept}, {self.replies}"
            for event in self.bus.poll(left_s):
                if isinstance(event, Delivery) and event.topic == REPLY:
                    self.replies.append(decode(event.payload, *HOME_REPLY.messages))
                elif isinstance(event, Delivery):
                    self.kept[event.topic] = event.payload

    def node(self, name: str) -> HomeNode | None:
        payload = self.kept.get(HOME_NODE.format(pipeline="main", node=name))
        return decode(payload, HomeNode) if payload else None

    def fleet(self) -> HomeFleet | None:
        payload = self.kept.get(HOME_FLEET.format(pipeline="main"))
        return decode(payload, HomeFleet) if payload else None

    def announces(self, device: str) -> bool:
        return bool(self.kept.get(config_of(device)))

    def say(self, message: object) -> None:
        self.bus.publish(COMMAND, encode(message), qos=1)


def connected(broker: MemoryBroker, client_id: str) -> MemoryBus:
    bus = MemoryBus(broker, client_id=client_id)
    bus.connect()
    return bus


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def members() -> set[str]:
    return {"a", "b", "c"}


@pytest.fixture
def service(broker: MemoryBroker, members: set[str], tmp_path: Path) -> Iterator[ScriptedService]:
    def tellers(service: ScriptedService) -> None:
        service.service.inbox.is_member = members.__contains__
        service.service.tellers.add(
            HomeTeller(
                service.bus,
                "homeassistant",
                service.service.core.plane,
                models=lambda: ("tiny", "other"),
                is_member=members.__contains__,
                has_door=False,
                look_s=0.05,
            )
        )

    with ScriptedFleet(connected(broker, "nodes"), [make_birth(name, memory_mb=190) for name in "abc"]):
        served = ScriptedService(connected(broker, "orchestrator"), tmp_path, TinyStore(), before=tellers)
        try:
            yield served
        finally:
            served.end()


@pytest.fixture
def home(broker: MemoryBroker) -> Iterator[Home]:
    with connected(broker, "home") as bus:
        yield Home(bus)


def test_the_fleet_and_each_node_are_announced_and_told_of(service: ScriptedService, home: Home) -> None:
    home.until(lambda: (state := home.fleet()) and state.state == "serving")
    home.until(lambda: all((node := home.node(name)) and node.state == "online" for name in "abc"))
    home.until(lambda: all(home.announces(f"linguabus-main{suffix}") for suffix in ("", "_n_a", "_n_b", "_n_c")))
    fleet = json.loads(home.kept[config_of("linguabus-main")])
    assert fleet["components"]["model"]["options"] == ["tiny", "other"]


def test_a_press_drains_a_node_and_another_one_uses_it_again(service: ScriptedService, home: Home) -> None:
    home.until(lambda: (state := home.fleet()) and state.state == "serving")
    home.say(DrainNode(node="a"))
    home.until(lambda: (node := home.node("a")) and node.drained and not node.layers)
    home.say(DrainNode(node="a", undo=True))
    home.until(lambda: (node := home.node("a")) and not node.drained)
    assert [type(reply) for reply in home.replies] == [DrainReply, DrainReply]


def test_what_can_not_be_done_is_answered(service: ScriptedService, home: Home) -> None:
    home.say(DrainNode(node="nobody"))
    home.bus.publish(COMMAND, b"drain!", qos=1)
    home.say(UseModel(model="missing"))
    home.until(lambda: len(home.replies) == 3)
    assert {type(reply) for reply in home.replies} == {OperatorRefusal}


def test_when_home_assistant_starts_it_is_told_everything_again(service: ScriptedService, home: Home) -> None:
    home.until(lambda: all(home.announces(f"linguabus-main_n_{name}") for name in "abc") and home.fleet())
    home.kept.clear()
    home.bus.publish("homeassistant/status", b"online", qos=1)
    home.until(lambda: all(home.announces(f"linguabus-main_n_{name}") for name in "abc") and home.fleet())


def test_who_belongs_to_the_fleet_no_more_is_removed(
    service: ScriptedService, members: set[str], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.service.sweeper.SHOWN_S", 0.1)
    home.until(lambda: home.announces("linguabus-main_n_a"))
    members.remove("a")
    service.service.revoked("a")
    topics = (config_of("linguabus-main_n_a"), HOME_NODE.format(pipeline="main", node="a"))
    home.until(lambda: [home.kept.get(topic) for topic in topics] == [b"", b""])
    assert home.announces("linguabus-main_n_b")


def test_what_an_earlier_start_left_of_a_node_that_is_gone_is_removed(
    broker: MemoryBroker, members: set[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    topics = (config_of("linguabus-main_n_old"), HOME_NODE.format(pipeline="main", node="old"))
    with connected(broker, "earlier") as earlier:
        for topic in topics:
            earlier.publish(topic, b"left", qos=1, retain=True)
    home: Home = request.getfixturevalue("home")
    request.getfixturevalue("service")
    home.until(lambda: [home.kept.get(topic) for topic in topics] == [b"", b""])


def test_what_is_told_is_what_a_home_may_read() -> None:
    readable = [right.topic for right in RIGHTS["home-assistant"] if "read" in right.access]
    assert {HOME_FLEET, HOME_NODE, HOME_REPLY, DOOR} <= set(readable)
    assert not any(matches(HOME_NODE.filter(), topic.filter()) for topic in TOPICS if topic is not HOME_NODE)


def test_the_door_is_told_once_and_again_when_it_changes(broker: MemoryBroker) -> None:
    ends: tuple[float, ...] = ()
    with connected(broker, "door") as bus, connected(broker, "reader") as reader:
        reader.subscribe([DOOR.filter()], qos=1)
        teller = DoorTeller(bus, "main", lambda _: ends)
        teller.look(0.0)
        teller.look(1.0)
        ends = (1e9, 2e9)
        teller.look(2.0)
        teller.again()
        teller.look(3.0)
        teller.end()
        said = [decode(event.payload, DoorState) for event in reader.poll(0) if isinstance(event, Delivery)]
    opened = DoorState(pipeline="main", open=True, open_until=2e9, invited=2)
    closed = DoorState(pipeline="main", open=False, invited=0)
    assert said == [closed, opened, opened, closed]
