"""The short way around paho: its hooks exist, and streams cut anywhere come out whole."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as paho
from paho.mqtt.client import MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from broker.bus import BusStats, Delivery, Event
from broker.errors import BadTopic
from broker.paho_client import MAX_TOPICS, READ_BYTES, SocketClient, pack_topic
from tests.support.fake_broker import CONNACK_OK_5, CONNACK_OK_311
from tests.support.mqtt_packets import Framer, Packet, Publish
from tests.support.strategies import examples

VERSIONS = pytest.mark.parametrize("version", [MQTTv311, MQTTv5])


class Wire:
    """A client that has had its CONNACK, and the broker's end of its connection."""

    def __init__(self, client: SocketClient, events: list[Event], stats: BusStats, peer: socket.socket) -> None:
        self.client = client
        self.events = events
        self.stats = stats
        self.peer = peer

    def read_all(self) -> None:
        self.client.loop_read()
        while self.client.may_have_more and self.client.has_more_to_read():
            self.client.loop_read()


@contextmanager
def wire(version: MQTTProtocolVersion) -> Iterator[Wire]:
    ours, peer = socket.socketpair()
    events: list[Event] = []
    stats = BusStats()
    client = SocketClient("x", version, stats, events)
    client.connect_async("127.0.0.1")
    with ours, peer:
        client.adopt(ours)
        peer.recv(1_000)
        peer.sendall(CONNACK_OK_5 if version == MQTTv5 else CONNACK_OK_311)
        client.loop_read()
        assert client.is_connected()
        yield Wire(client, events, stats, peer)
        client.drop()


def send(link: Wire, payload: bytes) -> bool:
    return link.client.send_publish(link.client.publish_head(pack_topic("t"), len(payload), False), payload)


def test_paho_still_calls_what_is_overridden() -> None:
    hooks = {
        "_create_socket": 0,
        "_sock_close": 0,
        "_sock_recv": 1,
        "_sock_send": 1,
        "_packet_queue": 2,
        "_handle_pubackcomp": 1,
        "_handle_publish": 0,
    }
    said = f"paho-mqtt {installed('paho-mqtt')} and broker/paho_client.py do not fit together: "
    source = inspect.getsource(paho.Client)
    for hook, arguments in hooks.items():
        assert hasattr(paho.Client, hook), f"{said}Client.{hook} is gone"
        required = [
            parameter.name
            for parameter in inspect.signature(getattr(paho.Client, hook)).parameters.values()
            if parameter.default is parameter.empty and parameter.name != "self"
        ]
        most = 4 if hook == "_packet_queue" else arguments
        assert arguments <= len(required) <= most, f"{said}Client.{hook} takes {required}"
        assert f"self.{hook}(" in source, f"{said}Client.{hook} is not called any more"
    assert "self._packet_read()" in inspect.getsource(paho.Client.loop_read), f"{said}loop_read"
    assert "self._handle_pubackcomp('PUBACK')" in source.replace('"', "'"), f"{said}_handle_pubackcomp"
    client = paho.Client(CallbackAPIVersion.VERSION2)
    for attribute in ("_sock", "_in_packet", "_out_packet", "_out_messages"):
        assert hasattr(client, attribute), f"{said}Client.{attribute} is gone"
    assert {"command", "packet", "remaining_length"} <= client._in_packet.keys(), f"{said}_in_packet"


@examples(40)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 50, 127, 128, 16_000, READ_BYTES, 200_000]), min_size=1, max_size=6),
    chunk=st.sampled_from([1_000, 4_096, 65_536, 1_000_000]),
    qos=st.sampled_from([0, 1]),
    version=st.sampled_from([MQTTv311, MQTTv5]),
)
def test_a_stream_cut_anywhere_is_delivered_whole(
    sizes: list[int], chunk: int, qos: int, version: MQTTProtocolVersion
) -> None:
    properties = b"\x01\x01" if version == MQTTv5 else None
    publishes = [
        Publish(f"t/{number}", bytes([number]) * size, qos, False, False, number + 1 if qos else None, properties)
        for number, size in enumerate(sizes)
    ]
    data = b"".join(publish.encode() for publish in publishes)
    with wire(version) as link:
        link.peer.setblocking(False)
        while data:
            with suppress(BlockingIOError):
                data = data[link.peer.send(data[:chunk]) :]
            link.read_all()
        link.read_all()
        assert link.events == [Delivery(publish.topic, publish.payload, qos, False) for publish in publishes]
        assert link.stats.messages_in == len(publishes)
        if qos:
            acknowledged = Framer().feed(link.peer.recv(10_000))
            assert [packet.data[2:4] for packet in acknowledged] == [
                publish.packet_id.to_bytes(2, "big") for publish in publishes if publish.packet_id is not None
            ]


def test_small_packets_byte_by_byte() -> None:
    data = Publish("t", b"payload").encode() + b"\xd0\0" + Publish("u", b"", retain=True).encode()
    with wire(MQTTv311) as link:
        for byte in data:
            link.peer.sendall(bytes([byte]))
            link.read_all()
        assert link.events == [Delivery("t", b"payload", 0, False), Delivery("u", b"", 0, True)]


@VERSIONS
def test_packets_that_look_alike_are_told_apart(version: MQTTProtocolVersion) -> None:
    """Each comes alone, and what it has in common with the one before it is not parsed again."""
    properties = b"" if version == MQTTv5 else None
    other_properties = b"\x01\x01" if version == MQTTv5 else None
    publishes = [
        Publish("t/1", b"aaaa", properties=properties),
        Publish("t/1", b"bbbb", properties=properties),
        Publish("t/2", b"cccc", properties=properties),
        Publish("t/2", b"dddd", properties=properties, retain=True),
        Publish("t/2", b"eeee", properties=properties),
        Publish("t/2", b"ee", 1, packet_id=7, properties=properties),
        Publish("t/2", b"ff", 1, packet_id=8, properties=properties),
        Publish("t/2", b"gggg", properties=properties),
        Publish("t/2", b"hh", properties=other_properties or properties),
        Publish("t/2", b"ii", properties=other_properties or properties),
        Publish("t/2", b"", properties=properties),
        Publish("t/2", b"", properties=properties),
    ]
    with wire(version) as link:
        before = link.stats.bytes_in
        for publish in publishes:
            link.peer.sendall(publish.encode())
            link.read_all()
        link.peer.sendall(publishes[0].encode() * 2)
        link.read_all()
        link.peer.sendall(publishes[0].encode() + b"\xd0\0")
        link.read_all()
        publishes += [publishes[0]] * 3
        assert link.events == [Delivery(one.topic, one.payload, one.qos, one.retain) for one in publishes]
        assert link.stats.messages_in == len(publishes)
        assert link.stats.bytes_in - before == sum(len(one.encode()) for one in publishes) + 2


@VERSIONS
def test_a_packet_like_the_one_before_it_is_not_parsed(
    version: MQTTProtocolVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    parse = SocketClient._take_publish

    def counted(client: SocketClient, command: int, data: bytes, at: int, stop: int) -> MQTTErrorCode:
        parsed.append(stop)
        return parse(client, command, data, at, stop)

    monkeypatch.setattr(SocketClient, "_take_publish", counted)
    properties = b"" if version == MQTTv5 else None
    publishes = [Publish("t/1", bytes([number]) * 4, properties=properties) for number in range(3)]
    with wire(version) as link:
        for publish in publishes:
            link.peer.sendall(publish.encode())
            link.read_all()
        assert link.events == [Delivery(one.topic, one.payload, 0, False) for one in publishes]
        assert len(parsed) == 1


def test_strings_of_many_or_long_topics_are_not_kept() -> None:
    topics = [f"t/{number}" for number in range(MAX_TOPICS + 10)] + ["t" * 60_000, "t/1", "t/1"]
    with wire(MQTTv311) as link:
        for topic in topics:
            link.peer.sendall(Publish(topic, b"").encode())
            link.read_all()
        assert [event.topic for event in link.events if isinstance(event, Delivery)] == topics
        assert link.events[-1].topic is link.events[-2].topic  # type: ignore[union-attr]
        assert len(link.client._topics) <= MAX_TOPICS
        assert max(map(len, link.client._topics)) < 100


@VERSIONS
def test_a_clogged_socket_keeps_order_and_bytes(version: MQTTProtocolVersion) -> None:
    payloads = [bytes([number]) * 300_000 for number in range(8)]
    with wire(version) as link:
        before = link.stats.bytes_out
        for number, payload in enumerate(payloads):
            if number % 2:
                link.client.publish("t", payload, 1)
            else:
                assert send(link, payload)
        assert link.client.want_write()
        waiting = link.client.buffered_bytes
        assert waiting > 0
        framer = Framer()
        packets: list[Packet] = []
        while len(packets) < len(payloads):
            packets += framer.feed(link.peer.recv(100_000))
            link.client.loop_write()
        got = [packet.publish(is_v5=version == MQTTv5) for packet in packets]
        assert [publish.payload for publish in got] == payloads
        assert [publish.qos for publish in got] == [0, 1] * 4
        assert link.client.buffered_bytes == 0
        assert link.stats.bytes_out - before == sum(len(packet.data) for packet in packets)
        assert link.client.unacknowledged == 4


@VERSIONS
def test_what_waited_when_the_connection_broke_is_counted(version: MQTTProtocolVersion) -> None:
    with wire(version) as link:
        while not link.client.want_write():
            send(link, bytes(300_000))
        send(link, b"behind it")
        link.client.publish("t", b"sure", 1)
        link.client.drop()
        assert not send(link, b"")
        ours, peer = socket.socketpair()
        with ours, peer:
            link.client.adopt(ours)
            assert link.stats.dropped_qos0 == 2
            peer.recv(1_000)
            peer.sendall(CONNACK_OK_5 if version == MQTTv5 else CONNACK_OK_311)
            link.client.loop_read()
            (packet,) = Framer().feed(peer.recv(1_000))
            again = packet.publish(is_v5=version == MQTTv5)
            assert (again.payload, again.dup) == (b"sure", True)
            link.client.drop()


@VERSIONS
def test_a_peer_that_is_gone_is_noticed_by_publish(version: MQTTProtocolVersion) -> None:
    with wire(version) as link:
        link.peer.close()
        assert not send(link, b"")
        assert link.client.socket() is None


@VERSIONS
def test_what_lies_unread_when_the_connection_breaks_is_forgotten(version: MQTTProtocolVersion) -> None:
    """The PUBACK of the first message fails; who reads until nothing is left must not go on for ever."""
    properties = b"" if version == MQTTv5 else None
    with wire(version) as link:
        for number in range(50):
            link.peer.sendall(Publish("t", b"x" * 20, 1, packet_id=number + 1, properties=properties).encode())
        link.peer.close()
        link.client.loop_read()
        assert link.client.socket() is None
        assert not link.client.has_more_to_read()
        assert len(link.events) == 1


def test_packed_topics_are_checked() -> None:
    assert pack_topic("ä") == b"\0\x02\xc3\xa4"
    with pytest.raises(BadTopic):
        pack_topic("a/#")
