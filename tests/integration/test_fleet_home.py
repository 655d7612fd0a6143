"""A served fleet in a home, with the roles that Mosquitto enforces: what is announced, and kept from others."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator

import pytest

from broker.bus import Delivery
from broker.mqtt import MqttBus
from orchestrator.model.store import ModelStore
from schemas.invitation import TOKEN_BYTES
from schemas.messages import DoorState, DrainNode, OperatorRefusal, OrchestratorStatus, decode, encode
from schemas.roles import Role
from schemas.topics import DOOR, HOME_COMMAND, HOME_FLEET, HOME_REPLY, ORCHESTRATOR_STATUS
from tests.support.fleet_world import FleetWorld
from tests.support.polling import DEADLINE_S, collect, subscribe
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {"hall": "home-assistant", "reader": "client", "owner": "operator", "phone": "node"}
CONFIG = "homeassistant/device/linguabus-main/config"
FORGED = "homeassistant/device/forged/config"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("fleet")
    with served_fleet(home, ModelStore(home / "models"), ROLES, home_assistant="homeassistant") as world:
        yield world


def await_on(bus: MqttBus, topic: str, wanted: Callable[[bytes], object] = bool) -> bytes:
    def fits(event: object) -> bool:
        return isinstance(event, Delivery) and event.topic == topic and bool(wanted(event.payload))

    events = collect(bus, lambda events: any(map(fits, events)), DEADLINE_S)
    return next(event.payload for event in events if isinstance(event, Delivery) and fits(event))


def test_a_home_is_told_of_the_fleet_and_told_again_when_it_starts(world: FleetWorld) -> None:
    with world.bus("hall") as hall:
        hall.subscribe([CONFIG, HOME_FLEET.format(pipeline="main")], qos=1)
        document = json.loads(await_on(hall, CONFIG))
        assert "door" in document["components"]
        hall.publish("homeassistant/status", b"online", qos=1)
        await_on(hall, CONFIG)


def test_who_serves_is_stored_for_those_who_may_know(world: FleetWorld) -> None:
    topic = ORCHESTRATOR_STATUS.format(pipeline="main")
    for name in ("hall", "reader", "owner"):
        with world.bus(name) as bus:
            bus.subscribe([topic], qos=1)
            assert decode(await_on(bus, topic), OrchestratorStatus).state == "here"


def test_what_a_home_asks_for_is_answered(world: FleetWorld) -> None:
    reply = HOME_REPLY.format(pipeline="main")
    with world.bus("hall") as hall:
        subscribe(hall, reply, qos=1)
        hall.publish(HOME_COMMAND.format(pipeline="main"), encode(DrainNode(node="nobody")), qos=1)
        assert "nobody" in decode(await_on(hall, reply), OperatorRefusal).reason


def test_the_door_says_until_when_it_is_open(world: FleetWorld) -> None:
    topic = DOOR.format(pipeline="main")

    def says(payload: bytes) -> DoorState:
        return decode(payload, DoorState)

    with world.bus("owner") as owner, world.fleet.register() as register:
        owner.subscribe([topic], qos=1)
        assert not says(await_on(owner, topic)).open
        register.invite("tablet", "node", secrets.token_bytes(TOKEN_BYTES), 600.0)
        until_s = says(await_on(owner, topic, lambda payload: says(payload).open)).open_until
        (invited,) = register.invited()
        assert until_s == invited.open_until
        register.shut()
        await_on(owner, topic, lambda payload: not says(payload).open)


def test_nobody_else_announces_devices(world: FleetWorld) -> None:
    for name in ROLES:
        with world.bus(name) as bus:
            bus.publish(FORGED, b"forged", qos=1, retain=True)
            bus.publish(CONFIG, b"", qos=1, retain=True)
            assert bus.flush(DEADLINE_S)
    with world.bus("hall") as hall:
        hall.subscribe(["homeassistant/device/+/config"], qos=1)
        hall.subscribe([last := HOME_FLEET.format(pipeline="main")], qos=1)  # what is stored there comes behind
        events = collect(hall, lambda events: any(getattr(one, "topic", "") == last for one in events), DEADLINE_S)
        kept = {event.topic: event.payload for event in events if isinstance(event, Delivery)}
        assert kept.keys() == {CONFIG, last}
        assert kept[CONFIG]
