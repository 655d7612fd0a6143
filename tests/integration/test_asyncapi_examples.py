"""Each example in docs/asyncapi.json of what a client, an operator or a home sends, sent to a fleet, and its answer.

What comes back is held against the document: the channel of the answer has such a message, and its schema is kept.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from jsonschema import Draft7Validator

from broker.bus import NO_PROPERTIES, Bus, Delivery, Properties
from broker.mqtt import MqttBus
from broker.roles import RIGHTS
from orchestrator.identity.broker_files import tell_broker, write_broker_files
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.store import ModelStore
from schemas import topics
from schemas.roles import Role
from tests.support.members import as_member
from tests.support.moves import PROMPT, moving
from tests.support.polling import collect, deliveries, subscribe
from tests.support.repository import ROOT
from tests.support.secured_broker import SecuredBroker

DOCUMENT = json.loads((ROOT / "docs" / "asyncapi.json").read_text("utf-8"))
CLIENT = "cli-4821"
"""Who asks where an example does not say it."""
SENDERS: tuple[Role, ...] = ("client", "operator", "home-assistant")
NODES = ("phone-anna", "pi", "old-tablet")
"""Of the examples."""
UNKNOWN = {"control.use_model", "control.trace"}
"""These name what this fleet does not know."""
DISCOVERY = "homeassistant"


def channels() -> dict[str, Role]:
    """Those on which such members send, and the first who may."""
    found: dict[str, Role] = {}
    names = {id(value): name.lower() for name, value in vars(topics).items() if isinstance(value, topics.Topic)}
    for role in SENDERS:
        for right in RIGHTS[role]:
            if right.access == "write":
                found.setdefault(names[id(right.topic)], role)
    return found


def examples() -> list[Any]:
    """(channel, payload) of all of them, by name."""
    return [
        pytest.param(channel, example["payload"], id=f"{channel}-{example['name']}")
        for channel in channels()
        for name in DOCUMENT["channels"][channel]["messages"]
        for example in DOCUMENT["components"]["messages"][name]["examples"]
    ]


def address(channel: str, **values: str) -> str:
    found: str = DOCUMENT["channels"][channel]["address"]
    for name, value in values.items():
        found = found.replace(f"{{{name}}}", value)
    assert "{" not in found
    return found


def message(delivery: Delivery, channel: str) -> dict[str, Any]:
    """What came, which the document has on the channel."""
    came: dict[str, Any] = json.loads(delivery.payload)
    assert came["type"] in DOCUMENT["channels"][channel]["messages"]
    schema = {"$ref": f"#/components/schemas/{came['type']}", "components": DOCUMENT["components"]}
    Draft7Validator(schema).validate(came)
    return came


@dataclass
class Fleet:
    """A fleet that answers, and members of it."""

    url: str
    stack: ExitStack
    members: dict[str, Bus]

    def member(self, name: str, role: Role) -> Bus:
        """Connected from now on."""
        if name not in self.members:
            bus = self.stack.enter_context(MqttBus(as_member(self.url, name, role), client_id=f"{name}-examples"))
            bus.connect()
            self.members[name] = bus
        return self.members[name]


@pytest.fixture(scope="module")
def fleet(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Slow nodes: an answer is open for longer than a message takes."""
    with SecuredBroker() as broker, ExitStack() as stack:
        folder = broker.members.home
        fleet = FleetFolder.update(folder, replace(broker.members.fleet.settings, home_assistant=DISCOVERY))
        with fleet.register() as register:
            write_broker_files(fleet, register)
        assert tell_broker(fleet)
        nodes = tmp_path_factory.mktemp("nodes")
        options = ("--emulate-speed", "0.02")
        stack.enter_context(moving(tiny_store, broker, nodes, NODES, *options, home_assistant=DISCOVERY))
        with ExitStack() as members:
            yield Fleet(broker.url, members, {})


class Reader:
    """Reads one answer to a request."""

    def __init__(self, bus: Bus, *channels: str, **values: str) -> None:
        self._bus = bus
        self._channels = {address(channel, **values): channel for channel in channels}
        subscribe(bus, *self._channels, qos=1)
        self.correlations: list[bytes] = []
        self._unread: deque[dict[str, Any]] = deque()

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message of which that is true; those before it are passed over."""
        while True:
            while self._unread:
                if holds(came := self._unread.popleft()):
                    return came
            for delivery in deliveries(collect(self._bus, lambda events: bool(deliveries(events)))):
                self._unread.append(message(delivery, self._channels[delivery.topic]))
                self.correlations.append(delivery.properties.correlation)


def is_last(came: dict[str, Any]) -> bool:
    return came["type"] in ("stream.end", "stream.error", "request.answer")


def send(
    bus: Bus, channel: str, payload: dict[str, Any], properties: Properties = NO_PROPERTIES, **values: str
) -> None:
    bus.publish(address(channel, **values), json.dumps(payload).encode(), qos=1, properties=properties)


def submit(bus: Bus, client: str, **fields: Any) -> None:
    """Ask for an answer that an example is about."""
    asked = {"type": "request.submit", "v": 1, "client": client, "prompt": PROMPT, "max_tokens": 200} | fields
    send(bus, "request_submit", asked, client=client)


@pytest.mark.parametrize(("channel", "payload"), examples())
def test_an_example_is_answered(fleet: Fleet, channel: str, payload: dict[str, Any]) -> None:
    role = channels()[channel]
    match channel:
        case "request_submit":
            ask(fleet, payload)
        case "control_submit":
            command(fleet, payload, role)
        case "home_command":
            bus = fleet.member("home", role)
            reader = Reader(bus, "home_reply", pipeline="main")
            send(bus, channel, payload, pipeline="main")
            said = reader.until(lambda _: True)["type"]
            assert said == ("control.refused" if payload["type"] in UNKNOWN else f"{payload['type']}.reply")
        case "client_will":
            bus, request = fleet.member(payload["client"], role), secrets.token_hex(8)
            reader = Reader(bus, "request_stream", client=payload["client"], request=request)
            submit(bus, payload["client"], request=request, connection=payload["connection"])
            reader.until(lambda came: came["type"] == "stream.text")
            send(bus, channel, payload, client=payload["client"])
            assert reader.until(is_last)["code"] == "unknown"
        case _:
            about_a_request(fleet, channel, payload, role)


def ask(fleet: Fleet, payload: dict[str, Any]) -> None:
    """A question, whose answer comes to its end."""
    client, request = payload["client"], payload["request"]
    bus = fleet.member(client, "client")
    if response := payload.get("response"):
        label = response["topic"].rpartition("/")[2]
        reader = Reader(bus, "response", client=client, label=label)
        send(bus, "request_submit", payload, client=client)
        assert reader.until(is_last)["type"] == "request.answer"
        assert reader.correlations == [bytes.fromhex(response["correlation"])]
        return
    reader = Reader(bus, "request_stream", client=client, request=request)
    send(bus, "request_submit", payload, client=client)
    last = reader.until(is_last)
    if (
        "answer_model" in payload or "tools" in payload
    ):  # another model's answer; and tools, which this one does not take
        assert (last["type"], last["code"]) == ("stream.error", "bad_request")
    else:
        assert last["type"] == "stream.end", last


def command(fleet: Fleet, payload: dict[str, Any], role: Role) -> None:
    """An operator's, answered on its own topic, and on the response topic of who has one."""
    bus = fleet.member("shelf-operator", role)
    kind = payload["type"]
    expected = {"control.refused"} if kind in UNKNOWN else {f"{kind}.reply", f"{kind}.no_plan"}
    request = secrets.token_hex(8)
    reader = Reader(bus, "control_reply", client="shelf-operator", request=request)
    send(bus, "control_submit", payload, client="shelf-operator", request=request)
    assert reader.until(lambda _: True)["type"] in expected
    request, correlation = secrets.token_hex(8), secrets.token_bytes(4)
    reader = Reader(bus, "response", client="shelf-operator", label=request)
    topic = address("response", client="shelf-operator", label=request)
    wanted = Properties(response_topic=topic, correlation=correlation)
    send(bus, "control_submit", payload, wanted, client="shelf-operator", request=request)
    assert reader.until(lambda _: True)["type"] in expected
    assert reader.correlations == [correlation]


def about_a_request(fleet: Fleet, channel: str, payload: dict[str, Any], role: Role) -> None:
    """What is said of a request while it is open, or has ended."""
    bus, request = fleet.member(CLIENT, role), payload["request"]
    place = {"client": CLIENT, "request": request}
    reader = Reader(bus, "request_stream", **place)
    submit(bus, CLIENT, request=request, max_tokens=200 if payload["type"] == "request.cancel" else 40)
    if payload.get("repeat"):
        reader.until(is_last)
        send(bus, channel, payload, **place)
        again = reader.until(lambda came: came["type"] == "stream.text")
        assert again["first_token"] <= payload["answer_tokens"] < again["first_token"] + len(again["token_ids"])
        reader.until(is_last)
        return
    reader.until(lambda came: came["type"] == "stream.text")
    send(bus, channel, payload, **place)
    end = reader.until(is_last)
    assert end["finish_reason"] == ("cancelled" if payload["type"] == "request.cancel" else "length")


def test_every_message_of_theirs_has_an_example() -> None:
    messages = itertools.chain.from_iterable(DOCUMENT["channels"][channel]["messages"] for channel in channels())
    assert all(DOCUMENT["components"]["messages"][name]["examples"] for name in messages)
