"""A look at what a node's messages meet: how long one takes to the broker and back, and how long one may be."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator

from broker.address import BrokerAddress
from broker.bus import Bus, Delivery
from broker.errors import BusError, SubscribeRefused
from broker.mqtt import MqttBus
from edge_node.telemetry.message_limit import MessageLimit
from schemas.finding import Finding, failed, ok, warning
from schemas.topics import NODE_ECHO, NODE_STATUS

_CONNECT_S = 5.0
_ECHOES, _ECHO_TIMEOUT_S = 15, 2.0
SLOW_S = 0.1
NAGLE_S = (0.038, 0.055)
"""Messages that wait for the acknowledgement of the one before take one of these 40 ms more, each."""
SHORT_BYTES = 262_144
_STATUS_S = 1.0


def check_echo(address: BrokerAddress, name: str, *, member: bool) -> Iterator[Finding]:
    """Send messages to oneself, as a node by this name.

    Args:
        member: of a fleet, where nobody else can have the name, and nobody may look who has it.
    """
    topic = NODE_ECHO.format(node=name)
    try:
        with MqttBus(address, client_id=f"doctor-{secrets.token_hex(8)}") as bus:
            bus.connect(_CONNECT_S)
            if not member:
                yield _check_name(bus, name)
            bus.subscribe([topic])
            yield _check_round_trip(bus, topic)
            limit = MessageLimit(bus, topic)
            limit.find(lambda _: None)
            yield _check_length(limit.max_message_bytes)
    except SubscribeRefused as error:
        yield failed("role", str(error), "join as a node: on the fleet's host, linguabus invite NAME")
    except BusError as error:
        yield failed("messages", str(error), "look at the broker's log")


def _check_name(bus: Bus, name: str) -> Finding:
    status = NODE_STATUS.format(node=name)
    bus.subscribe([status])
    end_s = time.monotonic() + _STATUS_S
    while (left_s := end_s - time.monotonic()) > 0:
        for event in bus.poll(left_s):
            if isinstance(event, Delivery) and event.topic == status:
                if b'"online"' in event.payload:
                    said = f"a node by the name of {name} is online already"
                    return warning("name", said, "if that is not this device, give it another name with --name")
                return ok("name", f"{name} is free")
    return ok("name", f"{name} is free")


def _check_round_trip(bus: Bus, topic: str) -> Finding:
    times_s: list[float] = []
    for _ in range(_ECHOES):
        began_s = time.perf_counter()
        bus.publish(topic, bytes(64))
        if not _await_echo(bus, topic, began_s + _ECHO_TIMEOUT_S):
            return failed("round trip", "a message to oneself does not come back", "look at the broker's log")
        times_s.append(time.perf_counter() - began_s)
    median_s = statistics.median(times_s)
    said = f"{median_s * 1000:.1f} ms to the broker and back, {max(times_s) * 1000:.1f} at most"
    if NAGLE_S[0] <= median_s <= NAGLE_S[1] and min(times_s) > NAGLE_S[0] / 2:
        return warning(
            "round trip",
            f"{said}: is each message held back for 40 ms?",
            "set_tcp_nodelay true in the broker's configuration, and no proxy without it in between",
        )
    if median_s > SLOW_S:
        remedy = "each word takes several of these: use the same Wi-Fi, 5 GHz, nearer to it"
        return warning("round trip", said, remedy)
    return ok("round trip", said)


def _await_echo(bus: Bus, topic: str, end_s: float) -> bool:
    while (left_s := end_s - time.perf_counter()) > 0:
        if any(isinstance(event, Delivery) and event.topic == topic for event in bus.poll(left_s)):
            return True
    return False


def _check_length(longest_bytes: int) -> Finding:
    said = f"the broker passes on messages of {longest_bytes:,} bytes"
    if longest_bytes < SHORT_BYTES:
        remedy = "prompts go in small pieces: raise max_packet_size or message_size_limit in the broker's configuration"
        return warning("message length", said, remedy)
    return ok("message length", said)
