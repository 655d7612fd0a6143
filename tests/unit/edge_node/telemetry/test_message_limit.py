"""How a node finds how long its messages may be, on a bus in memory."""

from __future__ import annotations

import pytest

from broker.bus import Delivery, Disconnected, Event
from broker.memory import MemoryBroker, MemoryBus
from broker.payload_probe import PRECISION
from edge_node.telemetry.link_probe import LinkProbe
from edge_node.telemetry.message_limit import CHECKED_BYTES, MessageLimit
from schemas.codec import decode_frame
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.topics import LONGEST_TOPIC_BYTES

TOPIC = "linguabus/v1/node/n/echo"


class Link:
    """A node's connection to a broker that may drop what is long."""

    def __init__(self, max_payload_bytes: int = 1_900_000) -> None:
        self.broker = MemoryBroker()
        self.longest_bytes = max_payload_bytes
        self.broker.lose = lambda message: len(message.payload) > self.longest_bytes
        self.bus = MemoryBus(self.broker, client_id="n", max_payload_bytes=max_payload_bytes)
        self.bus.connect()
        self.bus.subscribe([TOPIC])
        self.bus.poll(0)
        self.limit = MessageLimit(self.bus, TOPIC)
        self.kept: list[Event] = []

    def find(self) -> int:
        self.limit.find(self.kept.append)
        return self.limit.max_message_bytes

    def check(self) -> int:
        """As the node's loop does after a reconnect; returns how often the limit was found to be lower."""
        lower = 0
        self.limit.check()
        while True:
            lower += self.limit.go_on()
            events = self.bus.poll(0)
            if not events:
                return lower
            assert all(self.limit.take(event) for event in events)


def test_a_broker_without_a_limit() -> None:
    link = Link()
    assert link.find() == MAX_PAYLOAD_BYTES
    assert link.bus.max_payload_bytes == 1_900_000


def test_an_announced_limit_leaves_room_for_the_topic() -> None:
    assert Link(20_000).find() == 20_000 - LONGEST_TOPIC_BYTES


def test_a_limit_that_is_not_announced_is_found() -> None:
    link = Link()
    link.longest_bytes = 50_000
    assert 50_000 / PRECISION <= link.find() + LONGEST_TOPIC_BYTES <= 50_000
    assert link.check() == 0, "nothing has changed"


def test_what_else_arrives_is_kept() -> None:
    link = Link()
    link.bus.subscribe(["other"])
    link.bus.publish("other", b"probe of somebody else")
    link.bus.publish(TOPIC, b"rtt 1")
    link.find()
    assert [event.payload for event in link.kept if isinstance(event, Delivery)] == [
        b"probe of somebody else",
        b"rtt 1",
    ]


def test_after_a_reconnect_less_may_be_passed_on() -> None:
    link = Link()
    link.find()
    link.longest_bytes = 10_000
    link.bus.poll(0)
    assert link.check() == 1
    assert link.limit.max_message_bytes < 10_000
    link.longest_bytes = CHECKED_BYTES
    link.bus.limit_payload(None)
    assert link.check() == 0, "more than that is not tried beside the work"


def test_a_broker_that_hangs_up_is_not_asked_from_the_beginning_each_time() -> None:
    link = Link()
    link.limit.check()
    sizes = []
    for _ in range(40):
        link.limit.go_on()
        for event in link.bus.poll(0):
            assert isinstance(event, Delivery)
            if len(event.payload) > 10_000:
                sizes.append(len(event.payload))
                assert not link.limit.take(Disconnected("too long"))
                link.limit.check()  # connected again
            else:
                link.limit.take(event)
    assert sizes == [16_384, 16_384]
    assert 8_000 < link.bus.max_payload_bytes < 10_000


@pytest.mark.parametrize(
    ("max_message_bytes", "counts"), [(1_800_000, {1, 64}), (2_000, {1, 7}), (400, {1}), (100, set())]
)
def test_the_link_is_measured_with_what_fits(max_message_bytes: int, counts: set[int]) -> None:
    probe = LinkProbe(64, "fp32", max_message_bytes)
    seen: dict[int, int] = {}
    while not probe.done:
        message = probe.next_message()
        assert message
        assert len(message) <= max_message_bytes
        seen[decode_frame(message).count] = len(message)
        probe.echo(message)
    assert seen.keys() == counts
    figures = probe.figures()
    assert ("hop_s" in figures) is bool(counts)
    assert ("link_bytes_per_s" in figures) is (len(counts) > 1)
