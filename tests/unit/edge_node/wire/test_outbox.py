"""What a node says where the broker's messages are short."""

from __future__ import annotations

import pytest

from broker.bus import Delivery
from broker.errors import PayloadTooLarge
from broker.memory import MemoryBroker, MemoryBus
from edge_node.errors import BrokerTooTight
from edge_node.wire.outbox import Outbox, will_of
from schemas import messages
from schemas.codec import Dtype, Frame, Kind, encode_frame, request_id
from schemas.messages import Epoch, NodeStatus, RequestFailed, SegmentFailed
from schemas.topics import NODE_REPLY
from tests.support.scripted_nodes import make_birth

EPOCH = Epoch(generation=1, counter=2)


@pytest.fixture
def bus() -> MemoryBus:
    bus = MemoryBus(MemoryBroker(), client_id="n", will=will_of("n", 7), max_payload_bytes=600)
    bus.connect()
    bus.subscribe(["#"])
    bus.poll(0)
    return bus


@pytest.fixture
def outbox(bus: MemoryBus) -> Outbox:
    return Outbox(bus, node="n", incarnation=7)


def heard(bus: MemoryBus) -> list[Delivery]:
    return [event for event in bus.poll(0) if isinstance(event, Delivery)]


def frame(request: int, width: int) -> bytes:
    payload = bytes(4 * width)
    return encode_frame(Frame(Kind.ACTIVATION, request, EPOCH, 0, 0, 1, width, Dtype.FP32, 0, payload))


def test_frames_that_no_longer_fit_fail_their_requests(bus: MemoryBus, outbox: Outbox) -> None:
    data = frame(1, 64) + frame(2, 65)
    with pytest.raises(PayloadTooLarge) as refused:
        bus.publish("t", data)
    outbox.fail_requests(data, refused.value)
    failed = [messages.decode(delivery.payload, *NODE_REPLY.messages) for delivery in heard(bus)]
    assert [(one.request, one.epoch) for one in failed if isinstance(one, RequestFailed)] == [
        (request_id(1), EPOCH),
        (request_id(2), EPOCH),
    ]
    assert all("604 bytes is over the limit of 600" in one.reason for one in failed if isinstance(one, RequestFailed))


def test_what_is_too_long_is_said_to_be_so_and_not_sent(
    bus: MemoryBus, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.reply(SegmentFailed(node="n", incarnation=7, pipeline="main", epoch=EPOCH, reason="x" * 600))
    outbox.send_rows("t", bytes(601))
    assert heard(bus) == []
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "a message on linguabus/v1/node/n/reply was not sent",
        "a message on t was not sent",
    ]


def test_a_node_that_can_not_even_register_says_both_numbers(bus: MemoryBus, outbox: Outbox) -> None:
    outbox.register(make_birth("n"), leaving="")
    status = messages.decode(heard(bus)[1].payload, NodeStatus)
    assert (status.online, status.leaving) == (True, False)
    bus.limit_payload(100)
    with pytest.raises(BrokerTooTight, match=r"messages of 100 bytes at most, a node needs \d+ to register"):
        outbox.register(make_birth("n"), leaving="")
