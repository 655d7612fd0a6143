"""What the broker keeps and nobody is to find is cleared: junk as it is stored, and what a revoked name has left."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from orchestrator.service.inbox import OTHERS, Inbox
from orchestrator.service.sweeper import LOCKED_OUT_S, SHOWN_S, Sweeper
from schemas.messages import encode
from schemas.topics import NODE_BIRTH, NODE_STATUS, REQUEST_CANCEL, REQUEST_SUBMIT, SEGMENT
from tests.support.scripted_nodes import make_birth


class Swept:
    """An inbox and a sweeper on a broker, and somebody who stores what he likes."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.bus = MemoryBus(broker, client_id="orchestrator")
        self.junk = MemoryBus(broker, client_id="junk")
        self.bus.connect()
        self.junk.connect()
        self.members = {"other"}
        self.inbox = Inbox()
        self.inbox.is_member = self.members.__contains__
        self.sweeper = Sweeper(self.bus, self.inbox.is_member)
        self.inbox.clear = self.sweeper.clear

    def store(self, *topics: str) -> None:
        for topic in topics:
            self.junk.publish(topic, b"junk", qos=1, retain=True)

    def read(self) -> None:
        for event in self.bus.poll(0.0):
            if isinstance(event, Delivery):
                self.inbox.events(event)

    def kept(self) -> set[str]:
        """What somebody who comes later is given."""
        with MemoryBus(self.broker, client_id="late") as late:
            late.connect()
            late.subscribe(["#"])
            return {event.topic for event in late.poll(0.0) if isinstance(event, Delivery)}


@pytest.fixture
def swept() -> Iterator[Swept]:
    world = Swept(MemoryBroker())
    with world.bus, world.junk:
        yield world


def own_topics(name: str) -> list[str]:
    return [
        NODE_BIRTH.format(node=name),
        NODE_STATUS.format(node=name),
        SEGMENT.format(pipeline="x", epoch="1-1", stage="7", sender=name, receiver="b"),
        REQUEST_CANCEL.format(client=name, request="0" * 16),
        REQUEST_SUBMIT.format(client=name),
    ]


def test_what_is_not_to_be_kept_is_cleared_as_it_is_stored(swept: Swept) -> None:
    swept.bus.subscribe(OTHERS, qos=1, stored=False)
    swept.store(*(REQUEST_CANCEL.format(client="other", request=f"{number:016x}") for number in range(50)))
    swept.read()
    assert swept.kept() == set()
    swept.read()
    assert swept.bus.poll(0.0) == [], "it does not answer what it has sent itself"
    assert swept.inbox.rejected > 0


def test_what_a_revoked_name_has_left_is_cleared_once_it_is_locked_out(swept: Swept) -> None:
    swept.store(*own_topics("leaver"), *own_topics("other"))
    swept.sweeper.revoked("leaver")
    now_s = time.monotonic()
    assert swept.sweeper.look(now_s) == []
    assert set(own_topics("leaver")) <= swept.kept()
    for after_s in (LOCKED_OUT_S, LOCKED_OUT_S * 3, LOCKED_OUT_S * 5):
        assert swept.sweeper.look(now_s + after_s) == []
        swept.read()
    assert swept.kept() == set(own_topics("other"))
    swept.store(own_topics("leaver")[2])
    swept.read()
    assert own_topics("leaver")[2] in swept.kept(), "it does not listen for ever"
    assert swept.sweeper.look(now_s + SHOWN_S + 1) == ["leaver"]
    assert swept.sweeper.look(now_s + SHOWN_S + 1) == []


def test_who_is_a_member_again_keeps_its_birth(swept: Swept) -> None:
    swept.store(*own_topics("other"))
    swept.sweeper.revoked("other")
    swept.sweeper.look(time.monotonic() + LOCKED_OUT_S)
    swept.read()
    assert swept.kept() == set(own_topics("other")[:2])


def test_a_birth_of_who_is_no_member_is_cleared_when_it_is_found(swept: Swept) -> None:
    swept.junk.publish(NODE_BIRTH.format(node="other"), b"junk", qos=1, retain=True)
    birth = NODE_BIRTH.format(node="leaver")
    swept.junk.publish(birth, encode(make_birth("leaver")), qos=1, retain=True)
    swept.bus.subscribe([NODE_BIRTH.filter()], qos=1)
    swept.read()
    assert swept.kept() == {NODE_BIRTH.format(node="other")}


def test_one_sender_does_not_silence_the_warnings_of_others(swept: Swept, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1001):
        topic = REQUEST_CANCEL.format(client="loud", request=f"{number:016x}")
        swept.inbox.events(Delivery(topic, b"junk", 1, False))
    swept.inbox.events(Delivery(REQUEST_CANCEL.format(client="quiet", request="0" * 16), b"junk", 1, False))
    assert [("loud" in line, "quiet" in line) for line in caplog.messages] == [(True, False), (False, True)]
