"""Somebody who sees every packet of a question, its answer, and what nodes send each other, reads nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import pytest

from broker.free_ports import free_ports
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.store import ModelStore
from schemas.codec import FRAME_VERSION, MAGIC, Kind
from tests.support.fleet_commands import FleetCommands
from tests.support.fleet_world import HOST
from tests.support.packet_capture import PacketCapture, can_capture, tshark, tshark_writing

APPLICATION_DATA = b"\x17\x03\x03"
"""Begins a record of TLS."""
COMMANDS = FleetCommands()
run = COMMANDS.run


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[Path]:
    """The home of a fleet that is served, with the nodes phone and tablet."""
    base = tmp_path_factory.mktemp("fleet")
    host = base / "host"
    host.mkdir()
    (host / "models").symlink_to(tiny_store.home)
    ports = zip(("--broker-port", "--http-port", "--host-port"), map(str, free_ports(3)), strict=True)
    run(host, "init", "--listen", HOST, *chain.from_iterable(ports))
    with ExitStack() as stack:
        serve = ("serve", "--with-broker", "--model", "tiny", "--min-nodes", "2", "--context", "128")
        stack.enter_context(COMMANDS.running(host, *serve, until="orchestrator: "))
        for name in ("phone", "tablet"):
            line = run(host, "invite", name).split()[-1]
            join = ("join", line, "--memory-limit-mb", "400", "--drain-timeout", "0")
            stack.enter_context(COMMANDS.running(base / name, *join, until=f"node {name}: registered"))
        yield host


@pytest.mark.skipif(not can_capture(), reason="packets are seen by root or with CAP_NET_RAW, on Linux")
def test_who_sees_every_packet_reads_nothing(host: Path) -> None:
    question = a_question()
    with PacketCapture(*ports_of(host)) as capture:
        answer = run(host, "ask", "--max-tokens", "60", "--raw", question)
    assert capture.bytes.count(APPLICATION_DATA) > 60, "nothing was captured"
    nothing_is_in_the_clear(capture.bytes, question, answer)


@pytest.mark.long
@pytest.mark.skipif(not can_capture(), reason="packets are seen by root or with CAP_NET_RAW, on Linux")
def test_wireshark_sees_tls_and_nothing_else(host: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.pcapng"
    question = a_question()
    with tshark_writing(seen, ports_of(host)):
        answer = run(host, "ask", "--max-tokens", "60", "--raw", question)
    nothing_is_in_the_clear(seen.read_bytes(), question, answer)
    assert len(tshark(seen, ports_of(host), "tls.app_data", "frame.number")) > 60
    assert set(
        tshark(seen, ports_of(host), "tls.handshake.type == 2", "tls.handshake.extensions.supported_version")
    ) == {"0x0304"}


def a_question() -> str:
    return f"the secret is {secrets.token_hex(16)}"


def ports_of(host: Path) -> tuple[int, ...]:
    settings = FleetFolder.of(host).settings
    return settings.broker_port, settings.http_port, settings.host_port


def nothing_is_in_the_clear(seen: bytes, question: str, answer: str) -> None:
    """Of a question, its answer, and what nodes send each other."""
    assert len(answer) > 10
    for text in (question.encode(), question[:12].encode(), answer[:12].encode(), b"linguabus/v1/", b"MQTT"):
        assert text not in seen
    # Frames of hidden states begin with a magic, a version and a kind.
    assert MAGIC + bytes([FRAME_VERSION, Kind.ACTIVATION]) not in seen
