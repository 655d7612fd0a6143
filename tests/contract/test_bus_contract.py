"""What every bus promises (broker/bus.py), checked on the twin and on real brokers alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from broker.bus import NO_PROPERTIES, Connected, Delivery, Disconnected, Properties, Subscribed, Will
from broker.errors import BadTopic, BrokerUnreachable, BusClosed, PayloadTooLarge, QueueFull
from tests.support.bus_worlds import Connect, World
from tests.support.polling import DEADLINE_S, collect, collect_deliveries, deliveries, subscribe


@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_reaches_those_who_subscribed(connect: Connect, base: str, qos: int) -> None:
    sender, reader, other = connect(), connect(), connect()
    subscribe(reader, f"{base}/a", qos=qos)
    subscribe(other, f"{base}/b", qos=qos)
    sender.publish(f"{base}/a", b"hello", qos=qos)
    sender.publish(f"{base}/b", b"", qos=qos)
    assert collect_deliveries(reader, 1) == [Delivery(f"{base}/a", b"hello", qos, False)]
    assert collect_deliveries(other, 1) == [Delivery(f"{base}/b", b"", qos, False)]
    assert sender.stats.messages_out == 2
    assert reader.stats.messages_in == 1
    assert reader.stats.bytes_in > len(b"hello")


def test_properties_travel_with_a_message_over_mqtt_5(connect: Connect, base: str) -> None:
    sender, reader = connect(), connect()
    subscribe(reader, base, qos=1)
    asked = Properties(response_topic=f"{base}/answers", correlation=b"\0\xff", expires_s=60)
    sender.publish(base, b"question", qos=1, properties=asked)
    sender.publish(base, b"no question", qos=1)
    got = [delivery.properties for delivery in collect_deliveries(reader, 2)]
    assert got == [NO_PROPERTIES if getattr(sender, "protocol", "5") == "3.1.1" else asked, NO_PROPERTIES]


def test_a_client_gets_what_it_sends_itself(connect: Connect, base: str) -> None:
    bus = connect()
    subscribe(bus, base)
    bus.publish(base, b"mine")
    assert collect_deliveries(bus, 1)[0].payload == b"mine"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{base}/+/x", ["a/x", "b/x"]),
        ("{base}/#", ["", "a", "a/x", "b/x", "b/x/y"]),
        ("{base}/+", ["a"]),
        ("{base}/b/#", ["b/x", "b/x/y"]),
        ("{base}/+/+/+", ["b/x/y"]),
    ],
)
def test_wildcards(connect: Connect, base: str, pattern: str, expected: list[str]) -> None:
    bus = connect()
    end = f"{base}-end"
    subscribe(bus, pattern.format(base=base), end)
    for leaf in ("", "a", "a/x", "b/x", "b/x/y"):
        bus.publish(f"{base}/{leaf}" if leaf else base, leaf.encode())
    bus.publish(end, b"end")
    got = deliveries(collect(bus, lambda events: any(event.topic == end for event in deliveries(events))))
    assert [delivery.payload.decode() for delivery in got[:-1]] == expected


def test_a_retained_message_is_given_to_late_readers(connect: Connect, base: str) -> None:
    sender, early = connect(), connect()
    subscribe(early, f"{base}/#", qos=1)
    sender.publish(f"{base}/state", b"on", qos=1, retain=True)
    assert collect_deliveries(early, 1) == [Delivery(f"{base}/state", b"on", 1, False)]
    late = connect()
    late.subscribe([f"{base}/+"], qos=1)
    events = collect(late, lambda events: len(events) >= 2)
    assert Subscribed((f"{base}/+",)) in events
    assert deliveries(events) == [Delivery(f"{base}/state", b"on", 1, True)]


def test_messages_that_look_alike_are_told_apart(connect: Connect, base: str) -> None:
    """Same topic, same length: one is stored, one is acknowledged, one goes to another topic."""
    sender, reader = connect(), connect()
    subscribe(reader, f"{base}/#", qos=1)
    one, two = f"{base}/one", f"{base}/two"
    sent = [(one, b"a", 0, False), (one, b"b", 0, False), (one, b"c", 0, True), (one, b"d", 0, False),
            (one, b"e", 1, False), (two, b"f", 0, False), (one, b"gg", 0, False), (one, b"h", 0, False)]  # fmt: skip
    for topic, payload, qos, retain in sent:
        sender.publish(topic, payload, qos=qos, retain=retain)
    # MQTT keeps the order of one topic's messages of one QoS, no other (3.1.1, section 4.6).
    came = [(event.topic, event.payload, event.qos) for event in collect_deliveries(reader, len(sent))]
    assert sorted(came) == sorted((topic, payload, qos) for topic, payload, qos, _ in sent)
    unacknowledged = [payload for topic, payload, qos in came if (topic, qos) == (one, 0)]
    assert unacknowledged == [payload for topic, payload, qos, _ in sent if (topic, qos) == (one, 0)]
    late = connect()
    late.subscribe([one])
    assert [event.payload for event in collect_deliveries(late, 1)] == [b"c"]


def test_what_was_stored_is_left_out_where_it_is_not_wanted_and_the_broker_can(connect: Connect, base: str) -> None:
    early = connect()
    early.publish(f"{base}/state", b"on", qos=1, retain=True)
    assert early.flush(10)
    late = connect()
    subscribed = f"{base}/+"
    late.subscribe([subscribed], qos=1, stored=False)
    late.publish(f"{base}/end", b"end", qos=1)
    events = collect(late, lambda events: any(event.payload == b"end" for event in deliveries(events)))
    assert Subscribed((subscribed,)) in events
    leaves_out = getattr(late, "protocol", "5") == "5"
    assert [event.payload for event in deliveries(events)] == ([b"end"] if leaves_out else [b"on", b"end"])
    late.subscribe([subscribed], qos=1)
    assert b"on" in [event.payload for event in collect_deliveries(late, 1)]


def test_an_empty_retained_message_clears_the_stored_one(connect: Connect, base: str) -> None:
    bus = connect()
    bus.publish(f"{base}/a", b"old", qos=1, retain=True)
    bus.publish(f"{base}/b", b"kept", qos=1, retain=True)
    bus.publish(f"{base}/a", b"", qos=1, retain=True)
    assert bus.flush(10)
    late = connect()
    late.subscribe([f"{base}/#"], qos=1)
    assert collect_deliveries(late, 1) == [Delivery(f"{base}/b", b"kept", 1, True)]


@pytest.mark.parametrize("retain", [True, False])
def test_the_will_is_published_when_the_connection_is_lost(
    world: World, connect: Connect, base: str, retain: bool
) -> None:
    reader = connect()
    subscribe(reader, f"{base}/#", qos=1)
    frail = connect(will=Will(f"{base}/status", b"gone", qos=1, retain=retain))
    world.cut(frail)
    assert collect_deliveries(reader, 1) == [Delivery(f"{base}/status", b"gone", 1, False)]
    late = connect()
    late.subscribe([f"{base}/#"], qos=1)
    events = collect(late, lambda events: Subscribed((f"{base}/#",)) in events)
    late.publish(f"{base}/end", b"")
    events += collect(late, lambda events: any(event.topic == f"{base}/end" for event in deliveries(events)))
    kept = [Delivery(f"{base}/status", b"gone", 1, True)]
    assert deliveries(events)[:-1] == (kept if retain else [])


def test_no_will_after_a_clean_close(connect: Connect, base: str) -> None:
    reader = connect()
    subscribe(reader, f"{base}/#", qos=1)
    leaving = connect(will=Will(f"{base}/status", b"gone"))
    leaving.publish(f"{base}/last", b"words")
    leaving.close()
    assert collect_deliveries(reader, 1)[0].payload == b"words"
    connect().publish(f"{base}/end", b"")
    assert [delivery.topic for delivery in collect_deliveries(reader, 1)] == [f"{base}/end"]


@pytest.mark.parametrize("qos", [0, 1])
def test_order_is_kept_and_a_backlog_comes_in_few_polls(connect: Connect, base: str, qos: int) -> None:
    sender, reader, other = connect(), connect(), connect()
    for bus in (reader, other):
        subscribe(bus, base, qos=qos)
    count = 500
    for number in range(count):
        sender.publish(base, number.to_bytes(4, "big"), qos=qos)
    assert sender.flush(20)
    collect_deliveries(other, count)  # so the broker has sent it all
    got: list[int] = []
    polls = 0
    while len(got) < count:
        polls += 1
        got += [int.from_bytes(delivery.payload, "big") for delivery in deliveries(reader.poll(20))]
    assert got == list(range(count))
    assert polls < count


@pytest.mark.parametrize("qos", [0, 1])
def test_big_payloads_arrive_whole(connect: Connect, base: str, qos: int) -> None:
    sender, reader = connect(), connect()
    subscribe(reader, base, qos=qos)
    payloads = [bytes([number]) * size for number, size in enumerate((300_000, 1_500_000, 1, 0, 70_000))]
    for payload in payloads:
        sender.publish(base, payload, qos=qos)
    assert sender.flush(20)
    assert [delivery.payload for delivery in collect_deliveries(reader, len(payloads))] == payloads


@pytest.mark.parametrize("qos", [0, 1])
def test_the_payload_is_copied(connect: Connect, base: str, qos: int) -> None:
    bus = connect()
    subscribe(bus, base, qos=qos)
    buffer = bytearray(b"first")
    bus.publish(base, buffer, qos=qos)
    bus.publish(base, memoryview(buffer)[1:3], qos=qos)
    buffer[:] = b"other"
    got = collect_deliveries(bus, 2)
    assert [delivery.payload for delivery in got] == [b"first", b"ir"]
    assert all(type(delivery.payload) is bytes for delivery in got)


def test_a_lost_connection_comes_back_with_its_subscriptions(world: World, connect: Connect, base: str) -> None:
    sender, reader = connect(), connect()
    subscribe(reader, f"{base}/a", f"{base}/b/+")
    subscribe(reader, f"{base}/c", qos=1)
    world.cut(reader)
    events = collect(reader, lambda events: any(isinstance(event, Subscribed) for event in events))
    kinds = [type(event) for event in events]
    assert kinds == [Disconnected, Connected, Subscribed]
    assert events[1] == Connected(session_present=False, reconnect=True)
    assert events[2] == Subscribed((f"{base}/a", f"{base}/b/+", f"{base}/c"))
    assert reader.connected
    assert reader.stats.reconnects == 1
    for topic in (f"{base}/a", f"{base}/b/x", f"{base}/c"):
        sender.publish(topic, b"again", qos=1)
    assert [(delivery.topic, delivery.qos) for delivery in collect_deliveries(reader, 3)] == [
        (f"{base}/a", 0),
        (f"{base}/b/x", 0),
        (f"{base}/c", 1),
    ]


def test_a_broker_that_went_away_and_came_back(world: World, connect: Connect, base: str) -> None:
    bus = connect()
    subscribe(bus, base, qos=1)
    world.stop()
    assert isinstance(collect(bus, bool)[0], Disconnected)
    assert not bus.connected
    bus.poll(0.0)
    bus.publish(base, b"lost", qos=0)
    assert bus.stats.dropped_qos0 == 1
    for number in range(30):
        bus.publish(base, b"%d" % number, qos=1)
    bus.subscribe([f"{base}/late"], qos=1)
    bus.publish(f"{base}/late", b"30", qos=1)
    assert not bus.flush(0.0)
    world.start()
    got = collect_deliveries(bus, 31)
    assert [int(delivery.payload) for delivery in got if delivery.topic == base] == list(range(30))
    assert [int(delivery.payload) for delivery in got if delivery.topic != base] == [30]
    assert bus.flush(20)


def test_too_many_unsent_messages_are_refused(world: World, connect: Connect, base: str) -> None:
    bus = connect(max_queued=3)
    world.stop()
    collect(bus, bool)
    for _ in range(3):
        bus.publish(base, b"", qos=1)
    with pytest.raises(QueueFull, match="3 QoS 1 messages") as refused:
        bus.publish(base, b"", qos=1)
    assert refused.value.limit == 3


def test_wake_ends_a_poll_from_another_thread(connect: Connect) -> None:
    bus = connect()
    about_to_poll = threading.Event()

    def wake_it() -> None:
        about_to_poll.wait()
        bus.wake()

    waker = threading.Thread(target=wake_it)
    waker.start()
    about_to_poll.set()
    assert bus.poll(None) == []
    waker.join()
    bus.wake()
    bus.wake()
    assert bus.poll(None) == []
    assert bus.poll(0.0) == []
    bus.close()
    bus.wake()


def test_a_wake_during_flush_is_not_lost(connect: Connect, base: str) -> None:
    bus = connect()
    bus.wake()
    bus.publish(base, b"", qos=1)
    assert bus.flush(20)
    bus.poll(None)


def test_events_during_flush_are_kept(connect: Connect, base: str) -> None:
    bus = connect()
    subscribe(bus, base)
    bus.publish(base, b"0")
    for _ in range(5):
        bus.publish(f"{base}/other", b"", qos=1)
    assert bus.flush(20)
    assert [delivery.payload for delivery in collect_deliveries(bus, 1)] == [b"0"]


def test_unsubscribed_topics_fall_silent(world: World, connect: Connect, base: str) -> None:
    bus = connect()
    subscribe(bus, f"{base}/a", f"{base}/b")
    bus.unsubscribe([f"{base}/a", "never/subscribed"])
    bus.publish(f"{base}/a", b"")
    bus.publish(f"{base}/b", b"")
    assert [delivery.topic for delivery in collect_deliveries(bus, 1)] == [f"{base}/b"]
    world.cut(bus)
    events = collect(bus, lambda events: any(isinstance(event, Subscribed) for event in events))
    assert events[-1] == Subscribed((f"{base}/b",))


def test_the_payload_limit_is_kept_before_sending(connect: Connect, base: str) -> None:
    bus = connect(max_payload_bytes=1_000)
    subscribe(bus, base)
    assert bus.max_payload_bytes == 1_000
    for qos in (0, 1):
        with pytest.raises(PayloadTooLarge, match="1,001 bytes") as refused:
            bus.publish(base, bytes(1_001), qos=qos)
        assert (refused.value.size_bytes, refused.value.limit_bytes) == (1_001, 1_000)
    bus.publish(base, bytes(1_000))
    assert len(collect_deliveries(bus, 1)[0].payload) == 1_000


def test_a_limit_that_was_found_is_kept_until_it_is_forgotten(connect: Connect, base: str) -> None:
    bus = connect(max_payload_bytes=1_000)
    bus.limit_payload(100)
    assert (bus.announced_payload_bytes, bus.max_payload_bytes) == (1_000, 100)
    with pytest.raises(PayloadTooLarge, match="101 bytes is over the limit of 100"):
        bus.publish(base, bytes(101))
    bus.limit_payload(2_000)
    assert bus.max_payload_bytes == 1_000
    bus.limit_payload(None)
    assert bus.max_payload_bytes == 1_000


@pytest.mark.parametrize("topic", ["", "a/+", "#", "nul\0"])
def test_topics_with_wildcards_are_not_published_on(connect: Connect, topic: str) -> None:
    bus = connect()
    for qos in (0, 1):
        with pytest.raises(BadTopic):
            bus.publish(topic, b"", qos=qos)
    assert bus.connected


@pytest.mark.parametrize("pattern", ["", "a+/b", "a/#/b", "#b", "nul\0"])
def test_malformed_patterns_are_not_subscribed_to(connect: Connect, pattern: str) -> None:
    with pytest.raises(BadTopic):
        connect().subscribe(["fine", pattern])


def test_nobody_there(world: World) -> None:
    world.stop()
    with world.make("nobody") as bus, pytest.raises(BrokerUnreachable, match=r"start one there|is the fleet's host on"):
        bus.connect(timeout_s=DEADLINE_S)


def test_use_before_connect_and_after_close(world: World, connect: Connect) -> None:
    closed = connect()
    closed.close()
    closed.close()
    for bus in (world.make("unconnected"), closed):
        with bus:
            assert not bus.connected
            uses: list[Callable[[], object]] = [
                partial(bus.publish, "a", b""),
                partial(bus.publish, "a", b"", qos=1),
                partial(bus.subscribe, ["a"]),
                partial(bus.unsubscribe, ["a"]),
                partial(bus.poll, 0),
                partial(bus.flush, 0),
            ]
            for use in uses:
                with pytest.raises(BusClosed, match="connect"):
                    use()
