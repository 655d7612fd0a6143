"""Attacks of members of a fleet that is served: with one key and the network, against what their role allows."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.bus import Disconnected, Refused, Will
from broker.credential import FILE
from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from schemas.fleet_views import NodeView
from schemas.messages import SubmitRequest, encode
from schemas.roles import Role
from schemas.topics import NODE_BIRTH, NODE_STATUS, PLAN, PREFIX, REQUEST_CANCEL, REQUEST_STREAM, REQUEST_SUBMIT, Topic
from tests.integration.test_attacks import broker_log, cli
from tests.support.fleet_world import FleetWorld
from tests.support.nodes import NodeProcess
from tests.support.polling import DEADLINE_S, collect, deliveries, subscribe
from tests.support.repository import ROOT
from tests.support.scripted_nodes import make_birth
from tests.support.served_fleet import served_fleet

ROLES: dict[str, Role] = {
    "phone": "node",
    "thief": "node",
    "leaver": "node",
    "reader": "client",
    "stranger": "client",
    "owner": "operator",
}
PROMPT = "my-secret-prompt"
SEGMENT_OF_PHONE = "segment/main/1-1/1/from/pi/to/phone"
FORBIDDEN = {
    "thief": [
        "node/phone/birth", "node/phone/status", "node/phone/command", "node/thief/command", "node/phone/reply",
        "plan/main", SEGMENT_OF_PHONE, "token/main/1-1/from/phone/to/pi", "orchestrator/main/status",
        "orchestrator/main/wishes", "event/main", "request/reader/0000000000000000/stream", "request/submit/thief",
    ],
    "stranger": [
        "node/phone/birth", "node/phone/command", "plan/main", SEGMENT_OF_PHONE, "orchestrator/main/status",
        "token/main/1-1/from/stranger/to/pi", "orchestrator/main/wishes", "event/main", "request/submit/reader",
        "request/reader/0000000000000000/stream", "request/reader/0000000000000000/cancel", "client/reader/will",
        "request/stranger/0000000000000000/stream", "control/stranger/0000000000000000/submit",
        "control/owner/0000000000000000/submit",
    ],
    "owner": [
        "node/phone/birth", "node/phone/status", "node/phone/command", "plan/main", SEGMENT_OF_PHONE,
        "token/main/1-1/from/owner/to/pi", "orchestrator/main/status", "orchestrator/main/wishes", "event/main",
        "request/submit/reader", "request/reader/0000000000000000/stream", "request/reader/0000000000000000/cancel",
        "request/reader/0000000000000000/renew", "client/reader/will", "control/reader/0000000000000000/submit",
        "control/owner/0000000000000000/reply",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetWorld]:
    home = tmp_path_factory.mktemp("attacked")
    with served_fleet(home, ModelStore(home / "models"), ROLES) as served:
        yield served


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_role_has_not_is_refused_and_heard_by_nobody(world: FleetWorld, name: str) -> None:
    forbidden = {f"{PREFIX}/{topic}" for topic in FORBIDDEN[name]}
    with world.bus("orchestrator", "watcher") as watcher, world.bus(name) as bus:
        subscribe(watcher, f"{PREFIX}/#", qos=1)
        for topic in forbidden:
            bus.publish(topic, b"forged", qos=1, retain=True)
        events = collect(bus, lambda events: {e.topic for e in events if isinstance(e, Refused)} == forbidden)
        assert not any(isinstance(event, Disconnected) for event in events)
        watcher.publish(f"{PREFIX}/event/end", b"end", qos=1)
        heard = collect(watcher, lambda events: any(d.payload == b"end" for d in deliveries(events)))
        assert not [d for d in deliveries(heard) if d.payload == b"forged"]
    broker_log(world)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_will_on_a_topic_that_a_role_has_not_is_heard_by_nobody(world: FleetWorld, name: str) -> None:
    address = world.members[name].broker()
    with world.bus("orchestrator", "watcher") as watcher:
        subscribe(watcher, f"{PREFIX}/#", qos=1)
        for topic in FORBIDDEN[name]:
            will = Will(f"{PREFIX}/{topic}", b"forged", qos=1, retain=True)
            # The same client id again: the broker ends the first connection without a good-bye, so its will is due.
            with MqttBus(address, client_id="dies", will=will) as bus, MqttBus(address, client_id="dies") as again:
                bus.connect(DEADLINE_S)
                again.connect(DEADLINE_S)
        watcher.publish(f"{PREFIX}/event/end", b"end", qos=1)
        heard = collect(watcher, lambda events: any(d.payload == b"end" for d in deliveries(events)))
        assert not [d for d in deliveries(heard) if d.payload == b"forged"]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("thief", "#"),
        ("thief", "+/v1/node/+/command"),
        ("thief", "$share/g/linguabus/v1/node/phone/command"),
        ("thief", "$share/g/linguabus/v1/#"),
        ("thief", "$SYS/#"),
        ("stranger", "#"),
        ("stranger", f"{PREFIX}/request/+/+/stream"),
        ("stranger", f"$share/g/{PREFIX}/request/reader/+/stream"),
        ("stranger", "$SYS/#"),
        ("owner", "#"),
        ("owner", f"{PREFIX}/request/#"),
        ("owner", f"$share/g/{PREFIX}/request/submit/reader"),
        ("owner", "$SYS/#"),
    ],
)
def test_what_is_for_others_is_not_delivered(world: FleetWorld, name: str, wanted: str, kept: bool) -> None:
    """Nor what the broker keeps for those who subscribe later."""
    last = {"thief": PLAN.format(pipeline="last"), "owner": f"{PREFIX}/event/last"}.get(
        name, REQUEST_STREAM.format(client=name, request="0" * 16)
    )
    topics = [
        f"{PREFIX}/{topic}"
        for topic in (
            "node/phone/command", SEGMENT_OF_PHONE, "request/submit/reader", "node/phone/birth",
            "request/reader/0000000000000000/stream", "client/reader/will",
        )
    ]  # fmt: skip
    with world.bus("orchestrator", "speaker") as speaker, world.bus(name) as bus:
        if not kept:
            subscribe(bus, wanted, last, qos=1)
        for topic in topics:
            speaker.publish(topic, PROMPT.encode(), qos=1, retain=kept)
        assert speaker.flush(DEADLINE_S)
        if kept:
            subscribe(bus, wanted, last, qos=1)
        speaker.publish(last, b"end", qos=1)
        heard = collect(bus, lambda events: any(d.payload == b"end" for d in deliveries(events)))
        if kept:
            for topic in topics:
                speaker.publish(topic, b"", qos=1, retain=True)
            assert speaker.flush(DEADLINE_S)
        assert not [d for d in deliveries(heard) if PROMPT.encode() in d.payload or d.topic.startswith("$")]


def test_an_operators_command_of_a_client_is_refused_at_once(world: FleetWorld, tmp_path: Path) -> None:
    world.members["stranger"].save(tmp_path / FILE)
    begin_s = time.monotonic()
    done = cli(tmp_path, "nodes")
    assert time.monotonic() - begin_s < 20  # of which most is Python's start on a busy machine
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the broker refuses this to stranger: " in done.stderr
    assert world.members["stranger"].key not in done.stdout + done.stderr


def test_births_of_made_up_names_are_refused(world: FleetWorld) -> None:
    with world.bus("thief") as bus:
        for number in range(1000):
            topic = NODE_BIRTH.format(node=f"made-up-{number}")
            bus.publish(topic, encode(make_birth(f"made-up-{number}")), qos=1, retain=True)
        collect(bus, lambda events: sum(isinstance(event, Refused) for event in events) == 1000)
    with Client.connect(world.members["owner"].broker()) as owner:
        assert not [node.node for node in owner.nodes().nodes if node.node.startswith("made-up")]


def test_a_birth_with_another_name_inside_makes_no_other_node(
    world: FleetWorld,
) -> None:
    with world.bus("thief") as bus, Client.connect(world.members["owner"].broker()) as owner:
        bus.publish(NODE_BIRTH.format(node="thief"), encode(make_birth("phone")), qos=1)
        assert bus.flush(DEADLINE_S)
        assert "phone" not in {node.node for node in owner.nodes().nodes}


@pytest.mark.parametrize("topic", [NODE_BIRTH, NODE_STATUS])
def test_junk_that_is_kept_in_its_own_name_does_no_harm(
    world: FleetWorld, caplog: pytest.LogCaptureFixture, topic: Topic
) -> None:
    with world.bus("thief") as bus, Client.connect(world.members["owner"].broker()) as owner:
        for junk in (PROMPT.encode(), b"[" * 100_000, encode(make_birth("thief"))[:-1]):
            bus.publish(topic.format(node="thief"), junk, qos=1, retain=True)
        assert bus.flush(DEADLINE_S)
        assert "thief" not in {node.node for node in owner.nodes().nodes}
        bus.publish(topic.format(node="thief"), b"", qos=1, retain=True)
        assert bus.flush(DEADLINE_S)
    assert "rejected a message on" in caplog.text
    assert PROMPT not in caplog.text


def test_too_large_a_packet_ends_its_senders_connection_alone(world: FleetWorld) -> None:
    with world.bus("stranger") as bus, world.bus("reader") as other:
        bus._max_packet_bytes = bus._max_payload_bytes = bus._found_payload_bytes = 1 << 28
        bus.publish(REQUEST_SUBMIT.format(client="stranger"), b"x" * 10_000_000, qos=0)
        collect(bus, lambda events: any(isinstance(event, Disconnected) for event in events))
        assert not [event for event in other.poll(0.2) if isinstance(event, Disconnected)]


def test_what_is_not_to_be_stored_is_cleared(world: FleetWorld) -> None:
    topic = REQUEST_CANCEL.format(client="stranger", request="0" * 16)
    with world.bus("stranger") as bus, world.bus("orchestrator", "watcher") as watcher:
        subscribe(watcher, topic, qos=1)
        bus.publish(topic, b"x" * 1_000_000, qos=1, retain=True)
        collect(watcher, lambda events: any(not delivery.payload for delivery in deliveries(events)))


def test_what_breaks_the_contract_is_logged_without_its_prompt(
    world: FleetWorld, caplog: pytest.LogCaptureFixture
) -> None:
    submit = SubmitRequest(client="reader", request="1" * 16, prompt=PROMPT)
    with world.bus("stranger") as bus:
        subscribe(bus, REQUEST_STREAM.filter(client="stranger"), qos=1)
        bus.publish(REQUEST_SUBMIT.format(client="stranger"), encode(submit), qos=1)
        bus.publish(REQUEST_SUBMIT.format(client="stranger"), encode(submit)[:-9], qos=1)
        collect(bus, lambda events: len(deliveries(events)) >= 2)
    assert "rejected a message on" in caplog.text
    assert PROMPT not in caplog.text


def test_who_takes_a_known_connections_name_ends_no_node_or_orchestrator(world: FleetWorld, tmp_path: Path) -> None:
    before = len(broker_log(world))
    node = start_member(world, "phone", tmp_path / "node")
    try:
        with Client.connect(world.members["owner"].broker()) as owner:
            state = await_node(owner, "phone")
            for taken in ("phone", f"node-phone-{state.incarnation}", "orchestrator-main"):
                with world.bus("stranger", taken) as bus:
                    bus.poll(0.05)
            assert await_node(owner, "phone").incarnation == state.incarnation
        assert "already connected" not in broker_log(world)[before:]  # with which Mosquitto ends the first of two
        assert "reconnecting" not in node.log()
    finally:
        assert node.end() == 0
    assert world.members["phone"].key not in node.log()


def test_a_revoked_node_is_away_at_once(world: FleetWorld, tmp_path: Path) -> None:
    node = start_member(world, "leaver", tmp_path / "node")
    try:
        with Client.connect(world.members["owner"].broker()) as owner, world.bus("orchestrator", "late") as late:
            await_node(owner, "leaver")
            assert cli(world.fleet.path.parent, "revoke", "leaver").returncode == 0
            gone = await_node(owner, "leaver", state="offline")
            assert gone.reason == "its membership has ended"  # not that nothing is heard of it
            topics = {NODE_BIRTH.format(node="leaver"), NODE_STATUS.format(node="leaver")}
            subscribe(late, *topics, qos=1)
            heard = collect(late, lambda events: {d.topic for d in deliveries(events) if not d.payload} == topics)
            assert heard, "the next orchestrator finds nothing of it"
    finally:
        node.end()


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_files_are_their_owners_alone_and_show_no_key(world: FleetWorld, tmp_path: Path, mask: int) -> None:
    home = tmp_path / "home"
    shell = f"umask {mask:03o}; {sys.executable} -m orchestrator.cli --home {home} init --listen 127.0.0.1"
    subprocess.run(["sh", "-c", shell], cwd=ROOT, check=True, capture_output=True, timeout=60)
    for path in [home, *home.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_a_password_on_a_command_line_is_warned_of_and_shown_nowhere(world: FleetWorld, tmp_path: Path) -> None:
    url = "mqtts://me:sesame@127.0.0.1:9"
    for arguments in (("serve",), ("ask", "x")):
        done = cli(tmp_path, *arguments, "--broker", url)
        assert "warning: everybody on this machine can read a command line" in done.stderr
        assert "sesame" not in done.stdout + done.stderr
    command = [sys.executable, "-m", "edge_node", "--home", str(tmp_path / "node"), "--broker", url]
    node = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "warning: everybody on this machine can read a command line" in node.stderr
    assert "sesame" not in node.stdout + node.stderr


def await_node(owner: Client, name: str, state: str = "online") -> NodeView:
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        if found := [node for node in owner.nodes().nodes if node.node == name and node.state == state]:
            return found[0]
    raise AssertionError(name)


def start_member(world: FleetWorld, name: str, home: Path) -> NodeProcess:
    world.members[name].save(home / FILE)
    log = home / "node.log"
    command = [sys.executable, "-m", "edge_node", "--home", str(home), "-v", "--drain-timeout", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT)
    return NodeProcess(name, home, process, log)
