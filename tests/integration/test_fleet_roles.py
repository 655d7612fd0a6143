"""Every topic, role and direction on a real Mosquitto, in one's own name and in another's, against the table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.bus import Delivery, Subscribed, Will
from broker.mqtt import MqttBus
from broker.roles import RIGHTS, Access, may
from schemas.roles import Role
from schemas.topics import PREFIX, TOPICS, Topic
from tests.support.fleet_world import FleetWorld, fleet_world
from tests.support.polling import DEADLINE_S, collect

ROLES: dict[str, Role] = {"phone": "node", "reader": "client", "owner": "operator", "hall": "home-assistant"}
"""By the name of who has it."""
OTHER = "other"
END = f"{PREFIX}/event/end"
"""What comes last."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    with fleet_world(tmp_path_factory.mktemp("fleet"), ROLES | {OTHER: "node"}) as world:
        yield world


def spellings(topic: Topic, name: str) -> dict[str, dict[str, bool]]:
    """A topic with every choice of whose name is where, and at which places it is ``name``'s own."""
    blanks = [part[1:-1] for part in topic.pattern.split("/") if part.startswith("{")]
    who = [blank for blank in blanks if blank in ("node", "sender", "receiver", "client")]
    found = {}
    for number in range(1 << len(who)):
        own = {blank: bool(number >> index & 1) for index, blank in enumerate(who)}
        values = {blank: (name if own[blank] else OTHER) if blank in own else _value(blank) for blank in blanks}
        found[topic.format(**values)] = own
    return found


def _value(blank: str) -> str:
    return {"epoch": "1-1", "stage": "0", "request": "0" * 16}.get(blank, "main")


def expected(role: Role, access: Access, name: str) -> set[str]:
    """Topics that this role may read or write, spelled with names."""
    allowed = set()
    for topic in TOPICS:
        for text, own in spellings(topic, name).items():
            rights = [right for right in RIGHTS[role] if right.topic is topic and access in right.access]
            if any(not right.me or own[right.me] for right in rights):
                allowed.add(text)
                assert may(role, access, topic, own=True)
    return allowed


def everything(name: str) -> list[str]:
    return [text for topic in TOPICS for text in spellings(topic, name)]


def listen(bus: MqttBus) -> None:
    bus.subscribe([f"{PREFIX}/#"], qos=1)
    collect(bus, lambda events: any(isinstance(event, Subscribed) for event in events), DEADLINE_S)


def heard(bus: MqttBus, last: bytes) -> set[str]:
    """Topics of what comes until ``last`` does."""
    events = collect(bus, lambda events: any(isinstance(e, Delivery) and e.payload == last for e in events), DEADLINE_S)
    return {event.topic for event in events if isinstance(event, Delivery) and event.payload != last}


@pytest.mark.parametrize("name", ROLES)
def test_who_may_publish(world: FleetWorld, name: str) -> None:
    with world.bus("orchestrator", "watcher") as watcher, world.bus(name) as bus:
        listen(watcher)
        for topic in everything(name):
            bus.publish(topic, b"said", qos=1)
        assert bus.flush(DEADLINE_S)
        watcher.publish(END, b"end", qos=1)
        assert heard(watcher, b"end") == expected(ROLES[name], "write", name)


@pytest.mark.parametrize("name", ROLES)
def test_who_may_read(world: FleetWorld, name: str) -> None:
    readable = expected(ROLES[name], "read", name)
    last = sorted(readable)[0]
    with world.bus("orchestrator", "speaker") as speaker, world.bus(name) as bus:
        listen(bus)
        for topic in everything(name):
            speaker.publish(topic, b"said", qos=1)
        speaker.publish(last, b"end", qos=1)
        assert speaker.flush(DEADLINE_S)
        assert heard(bus, b"end") == readable


def test_beyond_the_topics_of_the_table_nobody_may_do_anything(world: FleetWorld) -> None:
    outside = ["other/topic", f"{PREFIX}/other", "linguabus/v2/plan/main", "$SYS/broker/version"]
    with world.bus("orchestrator", "watcher") as watcher:
        watcher.subscribe(["#", "$SYS/#"], qos=1)
        collect(watcher, lambda events: any(isinstance(event, Subscribed) for event in events), DEADLINE_S)
        for name in ROLES:
            with world.bus(name) as bus:
                for topic in outside:
                    bus.publish(topic, b"said", qos=1)
                assert bus.flush(DEADLINE_S)
        watcher.publish(END, b"end", qos=1)
        assert heard(watcher, b"end") == set()


def test_a_will_and_a_retained_message_are_bound_by_the_role_too(world: FleetWorld) -> None:
    forged = f"{PREFIX}/plan/main"
    address = world.members["phone"].broker()
    with world.bus("orchestrator", "watcher") as watcher:
        listen(watcher)
        with MqttBus(address, client_id="liar", will=Will(forged, b"forged", qos=1, retain=True)) as liar:
            liar.connect(timeout_s=DEADLINE_S)
            liar.publish(forged, b"forged", qos=1, retain=True)
            assert liar.flush(DEADLINE_S)
            # The same client id again: the broker ends the first connection without a good-bye, so its will is due.
            with MqttBus(address, client_id="liar") as again:
                again.connect(timeout_s=DEADLINE_S)
        watcher.publish(END, b"end", qos=1)
        assert forged not in heard(watcher, b"end")
    with world.bus("orchestrator", "late") as late:
        late.subscribe([forged], qos=1)
        late.subscribe([END], qos=1)
        late.publish(END, b"end", qos=1)
        assert heard(late, b"end") == set()
